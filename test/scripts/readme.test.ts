import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { findCommand } from '../support/broker';
import { ROOT, freePort, newFolder, until, type Command } from '../support/processes';
import { NPM, SCRIPTS, checkout, suite } from '../support/suite';

const it = suite();
const read = (...file: string[]) => readFileSync(path.join(ROOT, ...file), 'utf8');
const README = read('README.md');
const SOURCE = ['fib', 'connection', ...SCRIPTS].map((name) => read('src', `${name}.ts`)).join('');

// The commands that are run here, and as what. No other is: it might reach a broker that is not this run's.
type Kind = 'ends' | 'server' | 'broker' | 'demo' | 'rabbitmqctl';
const RUN: [RegExp, Kind][] = [
  [/^npm run setup && npm run demo$/, 'demo'],
  [/^npm run broker$/, 'broker'],
  [/^(npx ts-node src\/rpc_server\.ts|node dist\/rpc_server\.js)( --\w+ \d+)*$/, 'server'],
  [/^npx ts-node src\/rpc_client\.ts( --\w+ \d+)*( \w+)*$/, 'ends'],
  [/^node -e "require\('amqplib'\)\.connect\(process\.env\.AMQP_URL [^"]*"$/, 'ends'],
  [/^npm run build$/, 'ends'],
  [/^rabbitmqctl (add_vhost|add_user|set_permissions) [^;&`]*$/, 'rabbitmqctl'],
];

// Those that are not, and why not.
const NOT_RUN: Record<string, string> = {
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
  const lines = output.split('\n').filter((line) => line.trim() && !/^(>|npm )/.test(line));
  const stable = (line: string) => line.replace(/^server \d/, 'server').replace(/(reply within .*) \d wait.*?:/, '$1:');
  return lines.map(stable);
}

/** The status of a command that prints this. */
function statusOf(shown: string[]): number {
  if (shown.some((line) => /^ \[!\] n must be/.test(line))) return 2;
  return shown.some((line) => /^ \[!\] fib/.test(line)) ? 1 : 0;
}

function expectShown(shown: string[], printed: string[]): void {
  if (!shown.includes('...')) return expect([...printed].sort()).toEqual([...shown].sort());
  const rest = [...printed];
  for (const line of shown.filter((text) => text !== '...')) {
    expect(rest).toContain(line);
    rest.splice(rest.indexOf(line), 1);
  }
}

interface Expected { printed: (command: Command) => string[]; shown: string[] }

/** Terminals in which the README's commands run, with a broker of their own, or rabbitmqctl with this run's. */
async function terminals() {
  const [folder, TMPDIR] = [checkout({ forNpm: true }), newFolder('tmp')];
  const ports = { BROKER_PORT: String(await freePort()), BROKER_MANAGEMENT_PORT: String(await freePort()) };
  const own = { ...NPM, ...ports, TMPDIR, RPC_RUN_FOLDER: undefined };
  const withUrl = { ...own, AMQP_URL: `amqp://localhost:${ports.BROKER_PORT}` };
  const { env } = it.broker.details;
  const PATH = `${path.dirname(findCommand('rabbitmqctl')!)}:${env.PATH}`;
  const environments: Record<Kind, NodeJS.ProcessEnv> = {
    ends: withUrl, server: withUrl, broker: own,
    demo: { ...own, AMQP_URL: undefined }, // which finds no broker, and starts one
    rabbitmqctl: { ...env, PATH, SERVER_PASSWORD: 's', CLIENT_PASSWORD: 'c' },
  };
  // npx, which takes half a second of processor time to find this, is run in other tests.
  const run = (line: string, kind: Kind) =>
    it.command('bash', ['-c', `cd "$0" && ${line.replace(/^npx /, 'node_modules/.bin/')}`, folder], environments[kind]);
  const printed = ({ stdout, stderr }: Command) => toLines((stdout + stderr)
    .replaceAll(`:${ports.BROKER_PORT}`, ':5672').replaceAll(`:${ports.BROKER_MANAGEMENT_PORT}`, ':15672'));
  return { folder, TMPDIR, run, printed };
}

/** Runs what ends by itself. A slow machine may miss the times that are shown: it has three attempts. */
async function expectEnd(start: () => Command, { printed, shown }: Expected, attempts = 3): Promise<void> {
  const command = start();
  const status = await command.exit(300_000);
  try {
    expect(status, printed(command).join('\n')).toBe(statusOf(shown));
    if (shown.length > 0) expectShown(shown, printed(command));
  } catch (error) {
    if (attempts === 1 || shown.length === 0) throw error;
    await expectEnd(start, { printed, shown }, attempts - 1);
  }
}

/** Runs what goes on until Ctrl-C. */
async function expectStart(start: () => Command, { printed, shown }: Expected): Promise<Command> {
  const command = start();
  const last = shown.findLast((line) => line !== '...') ?? ' [x] Awaiting RPC requests';
  await until(last, () => printed(command).includes(last) || !command.running, 300_000);
  expectShown(shown.length > 0 ? shown : [last], printed(command));
  return command;
}

/** Ends commands as Ctrl-C in their terminals does. */
async function interrupt(commands: Command[]): Promise<void> {
  for (const { child } of commands) process.kill(-child.pid!, 'SIGINT');
  for (const command of commands) await command.exit();
}

test('every command of the README, in its order, prints what is shown there, and ends with its status', async () => {
  const { folder, TMPDIR, run, printed } = await terminals();
  const [servers, brokers]: [Command[], Command[]] = [[], []];
  for (const { before, command, shown } of steps.filter((step) => !NOT_RUN[step.command])) {
    const [, kind] = RUN.find(([pattern]) => pattern.test(command)) ?? expect.fail(`not on the list: ${command}`);
    if (/stop the servers/.test(before)) await interrupt(servers.splice(0));
    const [start, expected] = [() => run(command, kind), { printed, shown }];
    const several = /Terminals \d and \d/.test(before) ? 2 : 1;
    for (let terminal = 1; terminal <= several; terminal++) {
      if (kind === 'server') servers.push(await expectStart(start, expected));
      else if (kind === 'broker') brokers.push(await expectStart(start, expected));
      else await expectEnd(start, expected);
    }
    if (/'abc'/.test(command)) await servers[0]!.shows(/Refused a request: .* got "abc"/);
  }
  writeFileSync(path.join(folder, name!), program!);
  expect(await run(`npx ts-node ${name}`, 'ends').end()).toMatchObject({ status: 0, stdout: '832040n\n' });
  await interrupt(servers);
  await interrupt(brokers);
  const processes = execFileSync('ps', ['axeww', '-o', 'args='], { encoding: 'utf8', maxBuffer: 2 ** 26 });
  expect(processes.split('\n').filter((line) => line.includes(TMPDIR))).toEqual([]);
  expect(readdirSync(TMPDIR).filter((name) => name.startsWith('rpc-'))).toEqual([]);
  await it.serverAt(it.broker.url('rpc', 'rpc_server:s'));
  expect(await it.run('rpc_client', [], it.broker.url('rpc', 'rpc_client:c')).exit()).toBe(0);
  expect(await it.broker.api('GET', 'queues/rpc/rpc_queue')).toMatchObject({ type: 'quorum' });
});

test('npm run broker where one is says so, and the demo uses the one that AMQP_URL names', async () => {
  const run = (tool: string, env: NodeJS.ProcessEnv) =>
    it.command('node_modules/.bin/ts-node', [`test/tools/${tool}.ts`], env).end();
  const there = await run('broker', { BROKER_PORT: String(it.broker.details.port) });
  expect(there).toEqual({ status: 0, stdout: expect.stringMatching(/^RabbitMQ answers at .* already/), stderr: '' });
  const demo = await run('demo', {});
  expect(demo).toEqual({ status: 0, stdout: expect.stringMatching(/^server \d \| \[x\] Awaiting/), stderr: '' });
  await it.queueHas({ messageCount: 0 });
});

test('the README names no other command, and links to files that exist', () => {
  const named = [...README.matchAll(/`((?:npm|npx|docker) [^`]*)`/g)].map(([, command]) => command!);
  const known = [...steps.map(({ command }) => command), ...Object.keys(NOT_RUN), `npx ts-node ${name}`];
  expect(named.filter((command) => !known.includes(command))).toEqual([]);
  const scripts = [...known.join('\n').matchAll(/npm (?:run )?([\w:]+)/g)].map(([, script]) => script);
  expect([...new Set(scripts)].sort()).toEqual(Object.keys(JSON.parse(read('package.json')).scripts).sort());
  const links = [...README.matchAll(/\]\((?!http)([^)]+)\)/g)].map(([, file]) => file!);
  expect(links).toEqual(expect.arrayContaining(['src/fib.ts', ...SCRIPTS.map((script) => `src/${script}.ts`)]));
  expect(links.filter((file) => !existsSync(path.join(ROOT, file)))).toEqual([]);
  expect(/```mermaid\nsequenceDiagram\n([^]*?)```/.exec(README)![1]).not.toContain(';'); // it ends a statement there
});

test('the README names options and messages as the source has them', () => {
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
