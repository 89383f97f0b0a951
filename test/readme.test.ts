// The README, read and typed: each command in its order, and what it is shown to print.
import fs from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { findCommand } from './support/broker';
import { ROOT, freePort, newFolder, runFolder, type Command, until } from './support/machine';
import { useVhost } from './support/vhost';

const vhost = useVhost();
const read = (file: string) => fs.readFileSync(path.join(ROOT, file), 'utf8');
const README = read('README.md');

interface Step {
  before: string; // the line above
  command: string;
  shown: string[]; // what it prints
}

/** The commands of the console blocks. */
const steps = [...README.matchAll(/(.*)\n```console\n\$ ([^]*?)```/g)].flatMap(
  ([, before = '', block]): Step[] =>
    block!.split(/^\$ /m).map((part) => {
      const [command] = /^[^"\n]*(?:"[^"]*"[^"\n]*)*/.exec(part)!; // to the end of a line, quotes apart
      return { before, command, shown: toLines(part.slice(command.length)) };
    }),
);

/** Without what npm says, and which server it was. */
function toLines(output: string): string[] {
  const lines = output.split('\n').filter((line) => line.trim() && !/^(>|npm )/.test(line));
  return lines.map((line) => line.replace(/^server \d/, 'server'));
}

/** All that is shown must be printed, and nothing else, unless "..." is shown. */
function expectShown(shown: string[], printed: string[]): void {
  const rest = [...printed];
  for (const line of shown.filter((text) => text !== '...')) {
    expect(rest).toContain(line);
    rest.splice(rest.indexOf(line), 1);
  }
  if (!shown.includes('...')) expect(rest).toEqual([]);
}

/** A checkout in a folder of its own, with its node_modules as links, since they are large. */
function checkOut(): string {
  const folder = newFolder('checkout');
  const options = { recursive: true, preserveTimestamps: true };
  for (const file of ['package.json', 'package-lock.json', 'tsconfig.json', 'src', 'test']) {
    fs.cpSync(path.join(ROOT, file), path.join(folder, file), options);
  }
  fs.mkdirSync(path.join(folder, 'node_modules'));
  for (const name of fs.readdirSync(path.join(ROOT, 'node_modules'))) {
    fs.symlinkSync(path.join(ROOT, 'node_modules', name), path.join(folder, 'node_modules', name));
  }
  return folder;
}

/** Runs command lines in such a folder, with a broker of their own, or rabbitmqctl with this run's. */
async function openTerminals() {
  const folder = checkOut();
  const [BROKER_PORT, BROKER_MANAGEMENT_PORT] = [await freePort(), await freePort()].map(String);
  const npm = { npm_config_cache: runFolder(), npm_config_update_notifier: 'false' };
  const ports = { BROKER_PORT, BROKER_MANAGEMENT_PORT };
  const folders = { TMPDIR: newFolder('tmp'), RPC_RUN_FOLDER: '' };
  const AMQP_URL = `amqp://localhost:${BROKER_PORT}`;
  const own = { ...npm, ...ports, ...folders, AMQP_URL };
  const PATH = `${path.dirname(findCommand('rabbitmqctl')!)}:${process.env.PATH}`;
  const run = (line: string) => {
    let env: NodeJS.ProcessEnv = own;
    if (/run demo$/.test(line)) env = { ...own, AMQP_URL: undefined }; // it finds no broker
    if (/^rabbitmqctl/.test(line)) env = { ...vhost.broker.details.env, PATH };
    return vhost.runCommand('bash', ['-c', `cd "$0" && ${line}`, folder], env);
  };
  const printed = ({ output }: Command) => toLines(output.replaceAll(`:${BROKER_PORT}`, ':5672'));
  return { folder, run, printed };
}
type Terminals = Awaited<ReturnType<typeof openTerminals>>;

/** Runs what ends by itself. It has three attempts: a slow machine may miss the times that are shown. */
async function expectEnd(terminals: Terminals, step: Step, attempts = 3): Promise<void> {
  const ran = terminals.run(step.command);
  const text = step.shown.join('\n');
  const status = /^ \[!\] n must be/.test(text) ? 2 : Number(/^ \[!\] fib/m.test(text));
  try {
    expect(await ran.exit()).toBe(status);
    if (step.shown.length > 0) expectShown(step.shown, terminals.printed(ran));
  } catch (error) {
    if (attempts === 1) throw error;
    await expectEnd(terminals, step, attempts - 1);
  }
}

/** Runs what goes on until Ctrl-C. */
async function expectStart({ run, printed }: Terminals, step: Step): Promise<Command> {
  const started = run(step.command);
  const last = step.shown.at(-1)!;
  await until(last, () => printed(started).includes(last) || !started.running);
  expectShown(step.shown, printed(started));
  return started;
}

/** Ends commands as Ctrl-C in their terminals does. */
async function interrupt(commands: Command[]): Promise<void> {
  for (const command of commands) {
    command.interrupt();
    await command.exit();
  }
}

test('every command of the README, in its order, prints what is shown there', async () => {
  for (const user of ['rpc_server', 'rpc_client']) {
    await vhost.broker.api('PUT', `users/${user}`, { password: 'secret', tags: '' });
  }
  const terminals = await openTerminals();
  const broker: Command[] = [];
  const servers: Command[] = [];
  for (const step of steps) {
    const { before, command } = step;
    if (/[Ss]top (this one|the servers)/.test(before)) await interrupt(servers.splice(0));
    if (/Start a server again/.test(before)) servers.push(await expectStart(terminals, steps[2]!));
    for (let i = /in two terminals/.test(before) ? 2 : 1; i > 0; i--) {
      const list = command === 'npm run broker' ? broker : servers;
      if (/run broker|rpc_server\./.test(command)) list.push(await expectStart(terminals, step));
      else await expectEnd(terminals, step);
    }
  }
  await interrupt(servers.splice(1));
  const [, program] = /save this as `my_program\.ts`.*\n```ts\n([^]*?)```/.exec(README)!;
  fs.writeFileSync(path.join(terminals.folder, 'my_program.ts'), program!);
  const shown = [...program!.matchAll(/\/\/ (.*)/g)].map(([, line]) => line!);
  await expectEnd(terminals, { before: '', command: 'npx ts-node my_program.ts', shown });
  await interrupt([...servers, ...broker]);
});

test('with the permissions of the README, both sides work, on a quorum queue', async () => {
  await vhost.startServer([], vhost.broker.url('rpc', 'rpc_server:secret')); // of the test before
  const client = vhost.runScript('rpc_client', [], vhost.broker.url('rpc', 'rpc_client:secret'));
  expect(await client.exit()).toBe(0);
  expect(await vhost.broker.api('GET', 'queues/rpc/rpc_queue')).toMatchObject({ type: 'quorum' });
});

test("the README's idea in fifteen lines runs, and asks servers like ours, or itself", async () => {
  const [, code] = /save it as `idea\.mjs`.*\n```js\n([^]*?)```/i.exec(README)!;
  expect(code!.trim().split('\n')).toHaveLength(15);
  const file = path.join(runFolder(), 'built/idea.mjs'); // where there are node_modules
  fs.writeFileSync(file, code!);
  for (const idea of [vhost.runCommand('node', [file]), vhost.runCommand('node', [file])]) {
    for (const line of [/^fib\(10\) = 55$/m, /^fib\(20\) = 6765$/m, /^fib\(30\) = 832040$/m]) {
      await idea.shows(line);
    }
    expect(idea.stderr).toBe('');
  }
  expect(await vhost.runClient('10').exit()).toBe(0);
});

test('the README names every script of package.json, and files and functions that exist', () => {
  const commands = README.match(/`npm [^`]+`|^\$ npm .*/gm)!.join('\n');
  const named = [...commands.matchAll(/npm (?:run )?([\w:]+)/g)].map(([, script]) => script);
  const { scripts } = JSON.parse(read('package.json'));
  expect([...new Set(named)].sort()).toEqual(Object.keys(scripts).sort());
  const links = [...README.matchAll(/\]\((?!http)([^)]+)\)/g)].map(([, file]) => file!);
  expect(links.filter((file) => !fs.existsSync(path.join(ROOT, file)))).toEqual([]);
  const source = ['connection', 'rpc_server', 'rpc_client'].map((name) => read(`src/${name}.ts`));
  for (const name of ['#openReplyQueue', 'call', '#onReply', 'keepConnected', 'compute']) {
    expect(README).toContain(`\`${name}\``);
    expect(source.join('')).toContain(`${name}(`);
  }
});
