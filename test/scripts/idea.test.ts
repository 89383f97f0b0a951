import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { ROOT } from '../support/processes';
import { checkout, suite } from '../support/suite';

const it = suite();
const README = readFileSync(path.join(ROOT, 'README.md'), 'utf8');

test("the README's idea in fifteen lines runs, and asks servers like ours, or itself", async () => {
  const [, name, code] = /save this as `(\S+\.mjs)`.*\n```js\n([^]*?)```/.exec(README)!;
  expect(code!.trim().split('\n')).toHaveLength(15);
  const folder = checkout({ forNpm: false });
  writeFileSync(path.join(folder, name!), code!);
  const run = () => it.command('node', [path.join(folder, name!)]);
  for (const idea of [run(), run()]) {
    for (const line of [/^fib\(10\) = 55$/m, /^fib\(20\) = 6765$/m, /^fib\(30\) = 832040$/m]) await idea.shows(line);
    expect(idea.stderr).toBe('');
  }
  expect(await it.client('10').end()).toMatchObject({ status: 0, stdout: ' [x] Requesting fib(10)\n [.] Got 55\n' });
});

test('the README names functions of src, and the files in which they are', () => {
  const named = [...README.matchAll(/\(`(\w+\.ts)`: (`[^)]*`)\)/g)].flatMap(([, file, names]) => {
    return [...names!.matchAll(/`(.*?)`/g)].map(([, name]) => ({ file: file!, name: name! }));
  });
  const isThere = ({ file, name }: { file: string; name: string }) =>
    new RegExp(`${name}[(<]`).test(readFileSync(path.join(ROOT, 'src', file), 'utf8'));
  expect(named.length).toBeGreaterThan(6);
  expect(named.filter((one) => !isThere(one))).toEqual([]);
});
