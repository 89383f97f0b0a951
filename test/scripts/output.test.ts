import { expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { newFolder, until } from '../support/processes';
import { QUIET, built, suite, type Script } from '../support/suite';

const it = suite();
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
