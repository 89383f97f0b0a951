// What the two scripts take, refuse and print, and the checks behind it.
import net from 'node:net';
import { expect, test, vi } from 'vitest';
import { fib } from '../src/fib';
import { RpcClient } from '../src/rpc_client';
import { until } from './support/machine';
import { built, useVhost, type Script } from './support/vhost';

const vhost = useVhost();

test('fib is exact to n = 10,000, where doubles (n = 79) and 64 bits (n = 93) are not', () => {
  expect([0, 1, 2, 3, 4, 10, 30].map(fib)).toEqual([0n, 1n, 1n, 2n, 3n, 55n, 832040n]);
  expect([79, 93].map(fib)).toEqual([14472334024676221n, 12200160415121876738n]);
  expect(fib(10_000).toString()).toMatch(/^33644764876431783266\d{2050}66073310059947366875$/);
});

const SECRET = 'hunter2';
const AT = `amqp://guest:${SECRET}@`;

test.each([
  ...[SECRET, `${AT}localhost:99999`, `${AT}/vhost`, 'amqp:///', `http://u:${SECRET}@localhost`],
  ...['abc', '', '0.4', '-1'].map((heartbeat) => `${AT}localhost:1?heartbeat=${heartbeat}`),
])('AMQP_URL is refused, and no password shown, where it is %s', async (url) => {
  vi.stubEnv('AMQP_URL', url);
  vi.spyOn(net, 'connect').mockImplementation(() => expect.fail('it connects'));
  const message = 'AMQP_URL or url should be amqp://user:pass@host:5672/vhost?heartbeat=5';
  await expect(RpcClient.connect()).rejects.toThrow(new Error(message));
});

test.each([undefined, ''])('where AMQP_URL is %j, it is localhost:5672', async (url) => {
  vi.stubEnv('AMQP_URL', url);
  const connect = vi.spyOn(net, 'connect').mockImplementation(() => expect.fail('not now'));
  await expect(RpcClient.connect()).rejects.toThrow('RabbitMQ at localhost: not now');
  expect(connect.mock.lastCall![0]).toMatchObject({ host: 'localhost', port: 5672 });
});

test.each<[Script, RegExp]>([
  ['rpc_server', /^Usage: .*server\.ts \[--delay MS\] \[--prefetch N\]\n[^]*0\)[^]*1\)[^]*amqp:/],
  ['rpc_client', /^Usage: .*client\.ts \[--timeout MS\] \[N \.{3}\]\n[^]*30\)[^]*30000\)[^]*amqp:/],
])('%s --help prints the usage', async (script, usage) => {
  const help = await vhost.runScript(script, ['--help']).end();
  expect(help).toEqual({ status: 0, stdout: expect.stringMatching(usage), stderr: '' });
});

test.each<[Script, string[], string]>([
  ['rpc_server', ['--delay', ''], '--delay must be a whole number from 0 to 2147483647'],
  ['rpc_server', ['--delay', '1.5'], 'got "1.5"'],
  ['rpc_server', ['--prefetch', '65536'], '--prefetch must be a whole number from 1 to 65535'],
  ['rpc_server', ['30'], "'30'"],
  ['rpc_client', ['--timeout', '0', '5'], '--timeout must be a whole number from 1 to 2147483647'],
  ['rpc_client', ['1', '10001'], '"10001"'],
  ['rpc_client', ['5', ''], '""'],
  ['rpc_client', ['-5'], "'-5'"],
])('wrong usage is named, and ends with status 2: %s %j', async (script, args, named) => {
  const wrong = vhost.runScript(script, args, 'amqp://localhost:1');
  expect([await wrong.exit(), wrong.stdout]).toEqual([2, '']);
  expect(wrong.stderr).toMatch(/^ \[!\] .*\nUsage: /);
  expect(wrong.stderr.split('\n')[0]).toContain(named);
});

/** Runs a script in a shell line, in which "$@" is the script; the line's status is the script's. */
function runShell(line: string, script: Script, ...args: string[]) {
  const command = ['-c', `set -o pipefail; ${line}`, 'bash', process.execPath];
  return vhost.runCommand('bash', [...command, built(`src/${script}`), ...args]);
}

test.each([
  ['a reader of one line', '"$@" | head -1', 1],
  ['a full disk', '"$@" > /dev/full', 0],
])('%s ends client and server without a stack trace', async (_, line, lines) => {
  const delayed = await vhost.startServer(['--delay', '500']); // the reader has left when it answers
  const client = runShell(line, 'rpc_client', '1', '2');
  expect([await client.exit(), client.stdout.split('\n').length - 1]).toEqual([1, lines]);
  expect(client.stderr).not.toMatch(/ at |Error/);
  delayed.kill('SIGKILL');
  const channel = await vhost.declareQueue();
  const server = runShell(line, 'rpc_server');
  await until('the end', () => {
    channel.sendToQueue('rpc_queue', Buffer.from('30'), { replyTo: 'nobody' }); // it prints each
    return !server.running;
  });
  expect([await server.exit(), server.stderr]).toEqual([1, '']);
  expect(server.stdout.split('\n')).toHaveLength(lines + 1);
});
