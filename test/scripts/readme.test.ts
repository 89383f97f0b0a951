import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { findCommand } from '../support/broker';
import { ROOT, type Command } from '../support/processes';
import { NPM, checkout, suite } from '../support/suite';

const it = suite();
const read = (...file: string[]) => readFileSync(path.join(ROOT, ...file), 'utf8');
const README = read('README.md');

// The commands that are not run here, and why not.
const NOT_RUN: Record<string, string> = {
  'npm run broker': 'its ports are fixed, and may be those of another broker',
  'docker run --rm -p 5672:5672 -p 15672:15672 rabbitmq:4-management': 'there is no Docker engine',
  'npm test': 'this is it',
  'npm test -- client': 'this is it',
  'npm run bench': 'takes minutes',
  'npm run soak': 'takes minutes',
  'npm run soak -- --calls 100000': 'takes minutes',
  'npm run test:cluster': 'takes minutes',
};

/** The commands of the console blocks, the paragraphs above them, and the lines that they are shown to print. */
const steps = [...README.matchAll(/(.*)\n```console\n([^]*?)```/g)].flatMap(([, before, block]) => {
  return block!.split(/^\$ /m).slice(1).map((part) => {
    const [command] = /^[^"\n]*(?:"[^"]*"[^"\n]*)*/.exec(part)!; // to the end of a line, but not in quotes
    return { before: before!, command, shown: toLines(part.slice(command.length)) };
  });
});
const [, name, program] = /save this as `(.*?)`.*\n```ts\n([^]*?)```/.exec(README)!;

/** Without what npm says, and what is another each time: which server it was, whether a late request is gone yet. */
function toLines(output: string): string[] {
  const lines = output.split('\n').filter((line) => line.trim() && !/^(>|npm |demo )/.test(line));
  const stable = (line: string) => line.replace(/^server \d/, 'server').replace(/(reply within .*) \d wait.*?:/, '$1:');
  return lines.map(stable);
}

function expectShown(shown: string[], { stdout, stderr }: Command): void {
  const printed = toLines(stdout + stderr).sort();
  if (!shown.includes('...')) return expect(printed).toEqual([...shown].sort());
  const rest = [...printed];
  for (const line of shown.filter((text) => text !== '...')) {
    expect(rest).toContain(line);
    rest.splice(rest.indexOf(line), 1);
  }
}

test('every command of the README, in its order, prints what is shown there', async () => {
  const folder = checkout();
  const [PASSWORDS, { env }] = [{ SERVER_PASSWORD: 's', CLIENT_PASSWORD: 'c' }, it.broker.details];
  const forBroker = { ...env, ...PASSWORDS, PATH: `${path.dirname(findCommand('rabbitmqctl')!)}:${env.PATH}` };
  const run = (line: string) =>
    it.command('bash', ['-c', `cd "$0" && ${line}`, folder], /^rabbitmqctl/.test(line) ? forBroker : NPM);
  const servers: Command[] = [];
  for (const { before, command, shown } of steps.filter((step) => !NOT_RUN[step.command])) {
    const stopped = /stop the servers/.test(before) ? servers.splice(0) : [];
    for (const server of stopped) process.kill(-server.child.pid!, 'SIGINT');
    for (const server of stopped) await server.exit();
    const commands = [run(command), ...(/Terminals \d and \d/.test(before) ? [run(command)] : [])];
    for (let started of commands) {
      if (/rpc_server\.[jt]s/.test(command)) await started.shows(/Awaiting/);
      else if (shown.length === 0) expect([command, await started.exit()]).toEqual([command, 0]);
      else await started.exit();
      while (/the broker does not answer/.test(started.stderr)) { // in 200 ms, on a busy machine: not what is shown
        started = run(command);
        await started.exit();
      }
      if (shown.length > 0) expectShown(shown, started);
    }
    if (/rpc_server\.[jt]s/.test(command)) servers.push(...commands);
    const inTurn = /The server prints `(.*?)`/.exec(before)?.[1]!.replace(/\W/g, '\\$&');
    if (inTurn) await servers[0]!.shows(new RegExp(`^${inTurn}$`, 'm'));
    if (/'abc'/.test(command)) await servers[0]!.shows(/Refused a request: .* got "abc"/);
  }
  writeFileSync(path.join(folder, name!), program!);
  expect(await run(`npx ts-node ${name}`).end()).toMatchObject({ status: 0, stdout: '832040n\n' });
  await it.serverAt(it.broker.url('rpc', 'rpc_server:s'));
  expect(await it.run('rpc_client', [], it.broker.url('rpc', 'rpc_client:c')).exit()).toBe(0);
  expect(await it.broker.api('GET', 'queues/rpc/rpc_queue')).toMatchObject({ type: 'quorum' });
});

test('the README names no other command, links to files that exist, quotes lines of the source', () => {
  const named = [...README.matchAll(/`((?:npm|npx|docker) [^`]*)`/g)].map(([, command]) => command!);
  const known = [...steps.map(({ command }) => command), ...Object.keys(NOT_RUN), `npx ts-node ${name}`];
  expect(named.filter((command) => !known.includes(command))).toEqual([]);
  const scripts = [...known.join('\n').matchAll(/npm (?:run )?([\w:]+)/g)].map(([, script]) => script);
  expect([...new Set(scripts)].sort()).toEqual(Object.keys(JSON.parse(read('package.json')).scripts).sort());
  const links = [...README.matchAll(/\]\((?!http)([^)]+)\)/g)].map(([, file]) => file!);
  expect(links.filter((file) => !existsSync(path.join(ROOT, file)))).toEqual([]);
  const source = ['fib', 'connection', 'rpc_server', 'rpc_client'].map((file) => read('src', `${file}.ts`)).join('');
  const quotes = [...README.matchAll(/```ts\n([^]*?)```/g)].filter(([, code]) => code !== program);
  const lines = quotes.flatMap(([, code]) => code!.trim().split('\n'));
  expect(lines.filter((line) => !source.includes(line.trim()))).toEqual([]);
  expect(/```mermaid\nsequenceDiagram\n([^]*?)```/.exec(README)![1]).not.toContain(';'); // it ends a statement there
});
