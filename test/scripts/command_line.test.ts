import { expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { newFolder, until } from '../support/processes';
import { QUIET, SCRIPTS, built, suite, type Script } from '../support/suite';

const it = suite();
const NO_BROKER = 'amqp://localhost:1';

const USAGES = {
  rpc_server: /^Usage: npx ts-node src\/rpc_server.ts \[--delay MS\] \[--prefetch N\]\n[^]*default 0[^]*1[^]*amqp/,
  rpc_client: /^Usage: npx ts-node src\/rpc_client.ts \[--timeout MS\] \[N \.\.\.\]\n[^]*default 30\)[^]*default 30000/,
};

test.each(SCRIPTS)('%s --help prints the usage', async (script) => {
  const help = await it.run(script, ['--help'], NO_BROKER).end();
  expect(help).toEqual({ status: 0, stdout: expect.stringMatching(USAGES[script]), stderr: '' });
});

const WRONG_USAGE: Record<Script, [string[], string][]> = {
  rpc_server: [
    [['--delay', '-1'], '--delay'], [['--delay=-1'], '"-1"'], [['--delay', '1.5'], '"1.5"'], [['--delay', ''], '""'],
    [['--delay', '2147483648'], '"2147483648"'], [['--delay'], '--delay'], [['30'], "'30'"],
    [['--dealy', '3'], '--dealy'], [['--prefetch', '0'], '"0"'], [['--prefetch', '65536'], '"65536"'],
    [['--prefetch', 'x'], '"x"'], [['--\u001b[31m'], '\\u{1b}[31m'],
  ],
  rpc_client: [
    [['abc'], '"abc"'], [['1', '1000001'], '"1000001"'], [['-5'], "'-5'"], [['--', '-5'], '"-5"'], [['5', ''], '""'],
    [['\u001b[31m'], '"\\u001b[31m"'], [['--timeout'], '--timeout'], [['--timeout', '0', '5'], '"0"'],
    [['--timeout', '1s'], '"1s"'], [['--timeout', '2147483648'], '"2147483648"'], [['--retries', '3'], '--retries'],
  ],
};

const SECRET = 'hunter2';
const AT = `amqp://guest:${SECRET}@`;
const WRONG_URLS: [string, string][] = [
  ...[`localhost ${SECRET}`, `${AT}localhost:99999`, `${AT}/vhost`, 'amqp:///vhost'].map((url): [string, string] =>
    [url, 'AMQP_URL is not a URL such as']),
  [`http://u:${SECRET}@localhost:1`, 'AMQP_URL must begin with amqp: or amqps:, not http'],
  [`amqp://guest:12#${SECRET}@localhost:1`, 'AMQP_URL holds an @ behind the host'],
  [`amqp://guest:12/${SECRET}@localhost:1`, 'AMQP_URL holds an @ behind the host'],
  ...['abc', '', '0.4', '-1'].map((heartbeat): [string, string] =>
    [`${AT}localhost:1?heartbeat=${heartbeat}`, `heartbeat in AMQP_URL must be whole seconds, not "${heartbeat}"`]),
];

test.each(SCRIPTS)('%s names what is wrong with usage (status 2) or URL (1), before connecting', async (script) => {
  const usages = WRONG_USAGE[script].map(([args, named]) => ({ args, url: NO_BROKER, named, status: 2 }));
  const urls = WRONG_URLS.map(([url, named]) => ({ args: [], url, named, status: 1 }));
  const outcomes = await it.outcomes(script, [...usages, ...urls]);
  for (const [i, { args, url, named, status }] of [...usages, ...urls].entries()) {
    const [stderr, ...rest] = outcomes[i]!.stderr.split('\n');
    const usage = status === 2 ? /^Usage: / : /^$/;
    expect([args, url, outcomes[i]!.status, outcomes[i]!.stdout]).toEqual([args, url, status, '']);
    expect([stderr, rest.join('\n')]).toEqual([expect.stringMatching(/^ \[!\] /), expect.stringMatching(usage)]);
    expect(stderr).toContain(named);
    expect(stderr).not.toContain(SECRET);
  }
  const { args, url } = usages[0]!;
  expect(await it.run(script, args, url).end()).toEqual(outcomes[0]); // as a process of its own
});

test('both scripts are imported without starting anything', async () => {
  const code = SCRIPTS.map((script) => `require(${JSON.stringify(built(`src/${script}`))})`).join(';');
  expect(await it.command(process.execPath, ['-e', code]).end()).toEqual({ status: 0, stdout: '', stderr: '' });
});

const VALUE = ` [x] Requesting fib(1000000)\n [.] Got ${fib(1_000_000)}\n`; // 208,988 digits

/** Runs a script in a shell line, where "$@" is the script and its arguments; its status is the script's. */
function shell(line: string, script: Script, ...args: string[]) {
  const command = `set -o pipefail; ${line}`;
  return it.command('bash', ['-c', command, newFolder('output'), process.execPath, built(`src/${script}`), ...args]);
}

test.each([
  ['ends quietly where its reader leaves', '("$@" || true) | head -c 100', VALUE.slice(0, 100)],
  ['is whole through a pipe with a slow reader', '"$@" | (sleep 1; cat)', VALUE], // a reader, not a wait
  ['is whole in a file', '"$@" > "$0/file" && cat "$0/file"', VALUE],
])('the output of the client %s', async (_, line, expected) => {
  await it.server();
  const { status, stdout, stderr } = await shell(line, 'rpc_client', '1000000').end();
  expect([status, stdout === expected, stderr]).toEqual([0, true, QUIET]);
});

test.each([
  ['a reader that reads nothing', '"$@" | true', '', ''],
  ['a reader that leaves after a line', '"$@" | head -1', ' [x] Requesting fib(1)\n', ' [x] Awaiting RPC requests\n'],
  ['a full disk', '"$@" > /dev/full', '', ''],
])('%s ends client and server without a stack trace', async (_, line, clientOutput, serverOutput) => {
  const delayed = await it.server('--delay', '500'); // so that the reader has left when the answer comes
  const client = await shell(line, 'rpc_client', '1', '2').end();
  expect(client).toEqual({ status: 1, stdout: clientOutput, stderr: QUIET });
  delayed.kill('SIGKILL');
  const channel = await it.queue({ durable: true });
  const server = shell(line, 'rpc_server');
  await until('exit', () => { // for each a line, until one finds that the reader has left
    channel.sendToQueue('rpc_queue', Buffer.from('30'), { replyTo: 'nobody' });
    return !server.running;
  });
  expect(await server.end()).toEqual({ status: 1, stdout: serverOutput, stderr: '' });
});
