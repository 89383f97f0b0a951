import { expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { newFolder, until } from '../support/processes';
import { QUIET, SCRIPTS, built, suite, type Script } from '../support/suite';

const it = suite();
const NO_BROKER = 'amqp://localhost:1';

test.each([
  ['rpc_server', /^Usage: npx ts-node src\/rpc_server.ts \[--delay MS\] \[--prefetch N\]\n[^]*default 0[^]*1[^]*amqp/],
  ['rpc_client', /^Usage: npx ts-node src\/rpc_client.ts \[--timeout MS\] \[N \.\.\.\]\n[^]*default 30\)[^]*30000/],
] as const)('%s --help prints the usage', async (script, usage) => {
  const help = await it.run(script, ['--help'], NO_BROKER).end();
  expect(help).toEqual({ status: 0, stdout: expect.stringMatching(usage), stderr: '' });
});

test.each<[Script, string[], string]>([
  ['rpc_server', ['--delay', '1.5'], '--delay must be a whole number from 0 to 2147483647; got "1.5"'],
  ['rpc_server', ['--prefetch', '65536'], '--prefetch must be a whole number from 1 to 65535; got "65536"'],
  ['rpc_server', ['--delay', '-1'], '--delay'],
  ['rpc_server', ['30'], "'30'"],
  ['rpc_server', ['--\u001b[31m'], '\\u{1b}[31m'],
  ['rpc_client', ['--timeout', '0', '5'], '--timeout must be a whole number from 1 to 2147483647; got "0"'],
  ['rpc_client', ['1', '1000001'], '"1000001"'],
  ['rpc_client', ['5', ''], '""'],
  ['rpc_client', ['-5'], "'-5'"],
  ['rpc_client', ['--timeout'], '--timeout'],
])('wrong usage is named, before connecting, and ends with status 2: %s %j', async (script, args, named) => {
  const { status, stdout, stderr } = await it.run(script, args, NO_BROKER).end();
  expect([status, stdout, stderr]).toEqual([2, '', expect.stringMatching(/^ \[!\] .*\nUsage: /)]);
  expect(stderr.split('\n')[0]).toContain(named);
});

test.each(SCRIPTS)('%s ends with status 1 where AMQP_URL is refused, and names it', async (script) => {
  const stderr = ' [!] AMQP_URL is not a URL such as amqp://user:password@host:5672/vhost\n';
  expect(await it.run(script, [], 'localhost').end()).toEqual({ status: 1, stdout: '', stderr });
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
