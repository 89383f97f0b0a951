import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { findCommand } from '../support/broker';
import { ROOT, freePort, newFolder, processesWith, runFolder, until, type Command } from '../support/processes';
import { SCRIPTS, built, suite } from '../support/suite';

const it = suite();
const { NODE_EXTRA_CA_CERTS } = process.env; // for npm, which may ask its registry
const read = (...file: string[]) => readFileSync(path.join(ROOT, ...file), 'utf8');
const README = read('README.md');
const SOURCE = ['fib', 'connection', ...SCRIPTS].map((name) => read('src', `${name}.ts`)).join('');

// The commands that are run here, and as what. No other is: it might reach a broker that is not this run's.
type Kind = 'demo' | 'broker' | 'server' | 'ends' | 'rabbitmqctl' | 'not run';
const KINDS: [RegExp, Kind][] = [
  [/^npm run setup && npm run demo$/, 'demo'],
  [/^npm run broker$/, 'broker'],
  [/^(npx ts-node src\/rpc_server\.ts|node dist\/rpc_server\.js)( --\w+ \d+)*$/, 'server'],
  [/^npx ts-node (src\/rpc_client|my_program)\.ts( --\w+ \d+)*( \w+)*$/, 'ends'],
  [/^node -e "require\('amqplib'\)\.connect\(process\.env\.AMQP_URL [^"]*"$/, 'ends'],
  [/^npm run build$/, 'ends'],
  [/^rabbitmqctl (add_vhost|add_user|set_permissions) [^;&`]*$/, 'rabbitmqctl'],
  [/^npm (test( -- client)?|run (bench|soak( -- --calls 100000)?|test:cluster))$/, 'not run'], // too long
  [/^docker run --rm -p 5672:5672 -p 15672:15672 rabbitmq:4-management$/, 'not run'], // there is no Docker engine
];
const kindOf = (command: string) =>
  (KINDS.find(([pattern]) => pattern.test(command)) ?? expect.fail(`not on the list: ${command}`))[1];

/** The commands of the console blocks, the paragraphs above them, and the lines that they are shown to print. */
const steps = [...README.matchAll(/(.*)\n```console\n([^]*?)```/g)].flatMap(([, before, block]) => {
  return block!.split(/^\$ /m).slice(1).map((part) => {
    const [command] = /^[^"\n]*(?:"[^"]*"[^"\n]*)*/.exec(part)!; // to the end of a line, but not in quotes
    return { before: before!, command, kind: kindOf(command), shown: toLines(part.slice(command.length)) };
  });
});

/** Without what npm says, and what is another each time: which server it was, whether a late request is gone yet. */
function toLines(output: string): string[] {
  const lines = output.split('\n').filter((line) => line.trim() && !/^(>|npm )/.test(line));
  return lines.map((line) => line.replace(/^server \d/, 'server').replace(/(reply within .*) \d wait.*?:/, '$1:'));
}

function expectShown(shown: string[], printed: string[]): void {
  const rest = [...printed];
  for (const line of shown.filter((text) => text !== '...')) {
    expect(rest).toContain(line);
    rest.splice(rest.indexOf(line), 1);
  }
  if (!shown.includes('...')) expect(rest).toEqual([]);
}

/** The status of a command that prints this: 2 where it is used wrongly, 1 where a call failed. */
const statusOf = (shown: string) => (/^ \[!\] n must be/m.test(shown) ? 2 : Number(/^ \[!\] fib/m.test(shown)));

/** Terminals in which the README's commands run, with a broker of their own, or rabbitmqctl with this run's. */
async function terminals() {
  const [folder, TMPDIR] = [newFolder('checkout'), newFolder('tmp')];
  const toFolder = (file: string) => [path.join(ROOT, file), path.join(folder, file)] as const;
  const files = ['package.json', 'package-lock.json', 'tsconfig.json', 'src', 'test'];
  for (const file of files) cpSync(...toFolder(file), { recursive: true, preserveTimestamps: true });
  mkdirSync(path.join(folder, 'node_modules')); // of links: the packages are large
  for (const name of readdirSync(toFolder('node_modules')[0])) symlinkSync(...toFolder(`node_modules/${name}`));
  const ports = { BROKER_PORT: String(await freePort()), BROKER_MANAGEMENT_PORT: String(await freePort()) };
  const npm = { npm_config_cache: runFolder(), npm_config_update_notifier: 'false', npm_config_call: undefined };
  const own = { ...npm, ...ports, TMPDIR, RPC_RUN_FOLDER: '', AMQP_URL: `amqp://localhost:${ports.BROKER_PORT}` };
  const PATH = `${path.dirname(findCommand('rabbitmqctl')!)}:${process.env.PATH}`;
  const rabbitmqctl = { ...it.broker.details.env, PATH, SERVER_PASSWORD: 's', CLIENT_PASSWORD: 'c' };
  const environments = { rabbitmqctl, demo: { ...own, NODE_EXTRA_CA_CERTS, AMQP_URL: undefined } }; // finds no broker
  const run = (line: string, kind: Kind) =>
    it.command('bash', ['-c', `cd "$0" && ${line}`, folder], { ...own, ...environments[kind as 'demo'] });
  const printed = ({ stdout, stderr }: Command) => toLines((stdout + stderr)
    .replaceAll(`:${ports.BROKER_PORT}`, ':5672').replaceAll(`:${ports.BROKER_MANAGEMENT_PORT}`, ':15672'));

  /** Runs what ends by itself. A slow machine may miss the times that are shown: it has three attempts. */
  async function expectEnd(command: string, kind: Kind, shown: string[], attempts = 3): Promise<void> {
    const ran = run(command, kind);
    try {
      expect([await ran.exit(), printed(ran)]).toEqual([statusOf(shown.join('\n')), expect.anything()]);
      if (shown.length > 0) expectShown(shown, printed(ran));
    } catch (error) {
      if (attempts === 1 || shown.length === 0) throw error;
      await expectEnd(command, kind, shown, attempts - 1);
    }
  }

  /** Runs what goes on until Ctrl-C. */
  async function expectStart(command: string, kind: Kind, shown: string[]): Promise<Command> {
    const started = run(command, kind);
    const last = shown.findLast((line) => line !== '...') ?? ' [x] Awaiting RPC requests';
    await until(last, () => printed(started).includes(last) || !started.running);
    expectShown(shown.length > 0 ? shown : [last], printed(started));
    return started;
  }
  return { folder, TMPDIR, run, expectEnd, expectStart };
}

/** Ends commands as Ctrl-C in their terminals does. */
async function interrupt(commands: Command[]): Promise<void> {
  for (const { child } of commands) process.kill(-child.pid!, 'SIGINT');
  for (const command of commands) await command.exit();
}

test('every command of the README, in its order, prints what is shown there, and ends with its status', async () => {
  const { folder, TMPDIR, run, expectEnd, expectStart } = await terminals();
  const running: Record<'server' | 'broker', Command[]> = { server: [], broker: [] };
  const typed = new Set<Kind>();
  for (const { before, command, kind, shown } of steps) {
    if (/stop the servers/.test(before)) await interrupt(running.server.splice(0));
    // npx and ts-node take a second of processor time, which once for each script is enough.
    const toLine = (typedIn: string, file: string) => (typed.has(kind) ? `node ${built(file)}` : typedIn);
    const line = command.replace(/^npx ts-node (\S+)\.ts/, toLine);
    typed.add(kind);
    for (let terminal = /Terminals \d and \d/.test(before) ? 2 : 1; terminal > 0; terminal--) {
      if (kind === 'server' || kind === 'broker') running[kind].push(await expectStart(line, kind, shown));
      else if (kind !== 'not run') await expectEnd(line, kind, shown);
    }
    const again = 'RabbitMQ answers at amqp://guest:guest@localhost:5672 already.';
    if (kind === 'broker') await expectEnd(`node ${built('test/tools/broker')}`, kind, [again]);
    if (/'abc'/.test(command)) await running.server[0]!.shows(/Refused a request: .* got "abc"/);
  }
  const [, name, program] = /save this as `(\S+\.ts)`.*\n```ts\n([^]*?)```/.exec(README)!;
  writeFileSync(path.join(folder, name!), program!);
  const ran = await run(`node_modules/.bin/ts-node ${name}`, 'ends').end();
  expect(ran).toMatchObject({ status: 0, stdout: '832040n\n' });
  for (const commands of [running.server, running.broker]) await interrupt(commands);
  await until('the end of what Erlang has started', () => processesWith(TMPDIR).length === 0);
  expect(readdirSync(TMPDIR).filter((name) => name.startsWith('rpc-'))).toEqual([]);
  await it.serverAt(it.broker.url('rpc', 'rpc_server:s'));
  expect(await it.run('rpc_client', [], it.broker.url('rpc', 'rpc_client:c')).exit()).toBe(0);
  expect(await it.broker.api('GET', 'queues/rpc/rpc_queue')).toMatchObject({ type: 'quorum' });
});

test('the demo uses the broker that AMQP_URL names', async () => {
  const demo = await it.command('node_modules/.bin/ts-node', ['test/tools/demo.ts']).end();
  expect(demo).toEqual({ status: 0, stdout: expect.stringMatching(/^server \d \| \[x\] Awaiting/), stderr: '' });
  await it.queueHas({ messageCount: 0 });
});

test('the README names no other command, and every script of package.json', () => {
  const named = [...README.matchAll(/`((?:npm|npx|docker) [^`]*)`/g)].map(([, command]) => command!);
  named.forEach(kindOf);
  const all = [...named, ...steps.map(({ command }) => command)].join('\n');
  const scripts = [...all.matchAll(/npm (?:run )?([\w:]+)/g)].map(([, script]) => script);
  const { scripts: ours } = JSON.parse(read('package.json'));
  expect([...new Set(scripts)].sort()).toEqual(Object.keys(ours).sort());
});

test("the README's idea in fifteen lines runs, and asks servers like ours, or itself", async () => {
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

test('the README names functions of src and files that exist; a semicolon would end a statement of a diagram', () => {
  const named = [...README.matchAll(/\(`(\w+\.ts)`: (`[^)]*`)\)/g)].flatMap(([, file, names]) =>
    [...names!.matchAll(/`(.*?)`/g)].map(([, name]) => [file!, name!] as const));
  expect(named.length).toBeGreaterThan(6);
  for (const [file, name] of named) expect(read('src', file)).toMatch(new RegExp(`${name}[(<]`));
  const links = [...README.matchAll(/\]\((?!http)([^)]+)\)/g)].map(([, file]) => file!);
  expect(links).toEqual(expect.arrayContaining(['src/fib.ts', ...SCRIPTS.map((script) => `src/${script}.ts`)]));
  expect(links.filter((file) => !existsSync(path.join(ROOT, file)))).toEqual([]);
  expect(/```mermaid\nsequenceDiagram\n([^]*?)```/.exec(README)![1]).not.toContain(';');
});

test('the README has options and messages as the source has them', () => {
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
