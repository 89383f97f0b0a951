import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { ROOT, runFolder } from '../support/processes';
import { SCRIPTS, suite } from '../support/suite';

const it = suite();
const read = (...file: string[]) => readFileSync(path.join(ROOT, ...file), 'utf8');
const README = read('README.md');
const SOURCE = ['fib', 'connection', ...SCRIPTS].map((name) => read('src', `${name}.ts`)).join('');

test('its idea in fifteen lines runs, and asks servers like ours, or itself', async () => {
  const [, name, code] = /save this as `(\S+\.mjs)`.*\n```js\n([^]*?)```/.exec(README)!;
  expect(code!.trim().split('\n')).toHaveLength(15);
  const file = path.join(runFolder(), 'built', name!); // where there are node_modules
  writeFileSync(file, code!);
  for (const idea of [it.command('node', [file]), it.command('node', [file])]) {
    for (const line of [/^fib\(10\) = 55$/m, /^fib\(20\) = 6765$/m, /^fib\(30\) = 832040$/m]) await idea.shows(line);
    expect(idea.stderr).toBe('');
  }
  expect(await it.client('10').end()).toMatchObject({ status: 0, stdout: ' [x] Requesting fib(10)\n [.] Got 55\n' });
});

test('it names functions of src, and the files in which they are', () => {
  const named = [...README.matchAll(/\(`(\w+\.ts)`: (`[^)]*`)\)/g)].flatMap(([, file, names]) =>
    [...names!.matchAll(/`(.*?)`/g)].map(([, name]) => [file!, name!] as const));
  expect(named.length).toBeGreaterThan(6);
  for (const [file, name] of named) expect(read('src', file)).toMatch(new RegExp(`${name}[(<]`));
});

test('it links to files that exist, and its diagrams have no semicolon, which would end a statement', () => {
  const links = [...README.matchAll(/\]\((?!http)([^)]+)\)/g)].map(([, file]) => file!);
  expect(links).toEqual(expect.arrayContaining(['src/fib.ts', ...SCRIPTS.map((script) => `src/${script}.ts`)]));
  expect(links.filter((file) => !existsSync(path.join(ROOT, file)))).toEqual([]);
  expect(/```mermaid\nsequenceDiagram\n([^]*?)```/.exec(README)![1]).not.toContain(';');
});

test('it has options and messages as the source has them', () => {
  const options = [...README.matchAll(/`(--\w+)(?: \w+)?`/g)].map(([, option]) => option!);
  expect(options).not.toEqual([]);
  for (const text of [...options, /by default `(amqp:.*?)`/.exec(README)![1]]) expect(SOURCE).toContain(text);
  const [, table] = /^\|? ?message \| what to do.*\n.*\n((?:.*\|.*\n)+)/m.exec(README)!;
  const cells = [...table!.matchAll(/^\|? ?(`.*?`) ?\|/gm)].map(([, cell]) => cell!);
  const messages = cells.flatMap((cell) => cell.match(/[^`]{3,}/g)!);
  const texts = SOURCE.replace(/(^| )(\/\/|\/?\*+) .*$/gm, '').replaceAll('${QUEUE}', 'rpc_queue')
    .replaceAll('${nameOf(url)}', 'RabbitMQ at …').replace(/\$\{\w+ \? '(.*?)' : '(.*?)'\}(.*)/g, '$1$3\n$2$3');
  expect(messages.length).toBeGreaterThan(9);
  for (const part of messages.flatMap((message) => message.split(/ ?(?:…|\d+ \w+) ?/))) expect(texts).toContain(part);
});
