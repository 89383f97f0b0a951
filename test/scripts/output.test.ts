import { describe, expect, test } from 'vitest';
import { until } from '../support/processes';
import { scriptFile, suite, type Script } from '../support/suite';

const it = suite();

/** Runs a script in a shell line, where "$@" is the script and its arguments; its status is the script's. */
function shell(line: string, script: Script, ...args: string[]) {
  return it.command('bash', ['-c', `set -o pipefail; ${line}`, 'bash', process.execPath, scriptFile(script), ...args]);
}

describe.each([
  ['a reader that reads nothing', '"$@" | true', ''],
  ['a reader that leaves after a line', '"$@" | head -1', ' [x] Requesting fib(1)\n'],
  ['a full disk', '"$@" > /dev/full', ''],
])('%s', (_, line, output) => {
  test('ends the client without a stack trace', async () => {
    await it.server('--delay', '500'); // so that the reader has left when the answer comes
    const client = shell(line, 'rpc_client', '1', '2');
    expect(await client.exit()).toBe(1);
    expect(client.stdout).toBe(output);
    expect(client.stderr).toBe('');
  });

  test('ends the server without a stack trace', async () => {
    await it.queue();
    const server = shell(line, 'rpc_server');
    const { channel } = await it.peer();
    await until('exit', () => { // for each a line, until one finds that the reader has left
      channel.sendToQueue('rpc_queue', Buffer.from('30'), { replyTo: 'nobody' });
      return !server.running;
    });
    expect(await server.exit()).toBe(1);
    expect(server.stdout).toBe(output && ' [x] Awaiting RPC requests\n');
    expect(server.stderr).toBe('');
  });
});
