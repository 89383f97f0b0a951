import { expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { newFolder, until } from '../support/processes';
import { SCRIPTS, built, suite, type Script } from '../support/suite';

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

const WRONG: Record<Script, [string[], string][]> = {
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

test.each(SCRIPTS)('wrong usage of %s is named, before connecting, and ends with status 2', async (script) => {
  const commandLines = WRONG[script].map(([args]) => ({ args, url: NO_BROKER }));
  const outcomes = await it.outcomes(script, commandLines);
  WRONG[script].forEach(([args, named], i) => {
    const { stderr } = outcomes[i]!;
    const usage = expect.stringMatching(/^ \[!\] .*\nUsage: /);
    expect([args, outcomes[i]]).toEqual([args, { status: 2, stdout: '', stderr: usage }]);
    expect(stderr.split('\n')[0]).toContain(named);
  });
  expect(await it.run(script, commandLines[0]!.args, NO_BROKER).end()).toEqual(outcomes[0]); // as a process of its own
});

test.each(SCRIPTS)('%s is imported without starting anything', async (script) => {
  const command = it.command(process.execPath, ['-e', `require(${JSON.stringify(built(`src/${script}`))})`]);
  expect(await command.end()).toEqual({ status: 0, stdout: '', stderr: '' });
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
  expect([status, stdout === expected, stderr]).toEqual([0, true, '']);
});

test.each([
  ['a reader that reads nothing', '"$@" | true', '', ''],
  ['a reader that leaves after a line', '"$@" | head -1', ' [x] Requesting fib(1)\n', ' [x] Awaiting RPC requests\n'],
  ['a full disk', '"$@" > /dev/full', '', ''],
])('%s ends client and server without a stack trace', async (_, line, clientOutput, serverOutput) => {
  const delayed = await it.server('--delay', '500'); // so that the reader has left when the answer comes
  const client = await shell(line, 'rpc_client', '1', '2').end();
  expect(client).toEqual({ status: 1, stdout: clientOutput, stderr: '' });
  delayed.kill('SIGKILL');
  const channel = await it.queue({ durable: true });
  const server = shell(line, 'rpc_server');
  await until('exit', () => { // for each a line, until one finds that the reader has left
    channel.sendToQueue('rpc_queue', Buffer.from('30'), { replyTo: 'nobody' });
    return !server.running;
  });
  expect(await server.end()).toEqual({ status: 1, stdout: serverOutput, stderr: '' });
});
