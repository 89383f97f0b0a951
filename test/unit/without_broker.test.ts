import net from 'node:net';
import { expect, test, vi } from 'vitest';
import { wholeNumber } from '../../src/connection';
import { fib, readArgument, readResult, writeArgument, writeResult } from '../../src/fib';
import { RpcClient } from '../../src/rpc_client';
import { Command } from '../support/processes';
import { SCRIPTS, built, type Script } from '../support/suite';

test('fib is exact to n = 1,000,000, also where doubles (n = 79) and 64-bit integers (n = 93) are not', () => {
  expect([0, 1, 2, 3, 4, 10, 30].map(fib)).toEqual([0n, 1n, 1n, 2n, 3n, 55n, 832040n]);
  const large = [8944394323791464n, 14472334024676221n, 7540113804746346429n, 12200160415121876738n];
  expect([78, 79, 92, 93].map(fib)).toEqual(large);
  for (let n = 2; n <= 2_000; n++) expect(fib(n)).toBe(fib(n - 1) + fib(n - 2));
  const digits = fib(1_000_000).toString();
  expect(digits).toHaveLength(208_988);
  expect(digits).toMatch(/^19532821287077577316\d*68996526838242546875$/);
});

test.each([-1, 1.5, NaN, Infinity, 1_000_001, 1e21])('fib refuses %s', (n) => {
  expect(() => fib(n)).toThrow(RangeError);
  expect(() => fib(n)).toThrow(`n must be a whole number from 0 to 1000000, in digits; got "${n}"`);
});

test.each(['', ' ', '30 ', '-1', '+1', '1.0', '1e3', '0x1f', '1_000', '1000001', '00000030', '٣٠', 'abc'])(
  'an argument is refused, with its text, where it is %j',
  (text) => expect(() => readArgument(Buffer.from(text))).toThrow(`got ${JSON.stringify(text)}`),
);

test('an argument is read, cut and escaped where it is refused, and written; a result is read as written', () => {
  expect(['0', '0000030', '1000000'].map((text) => readArgument(Buffer.from(text)))).toEqual([0, 30, 1_000_000]);
  const body = Buffer.from(`\u001b[31m${'x'.repeat(100)}`);
  expect(() => readArgument(body)).toThrow(`got "\\u001b[31m${'x'.repeat(35)}…"`);
  expect(writeArgument(30).toString()).toBe('30');
  expect(() => writeArgument(1.5)).toThrow(RangeError);
  for (const value of [0n, 832040n, 10n ** 208_987n]) expect(readResult(writeResult(value))).toBe(value);
});

test.each(['', ' 1', '-1', '0x1f', '1n', 'abc', '1'.repeat(208_989)])('a result is refused where it is %j', (text) => {
  expect(() => readResult(Buffer.from(text))).toThrow(`begins with ${JSON.stringify(text.slice(0, 40))}`);
});

test.each(['', '-1', '1.5', '1e3', '1s', ' 1', '10'])('a number from 0 to 9 is refused where it is %j', (text) => {
  expect(wholeNumber('it', '9', 0, 9)).toBe(9);
  expect(() => wholeNumber('it', text, 0, 9)).toThrow(`it must be a whole number from 0 to 9; got "${text}"`);
});

const SECRET = 'hunter2';
const AT = `amqp://guest:${SECRET}@`;

test.each([
  ...[SECRET, `${AT}localhost:99999`, `${AT}/vhost`, 'amqp:///'].map((url) => [url, 'AMQP_URL is not a URL']),
  [`http://u:${SECRET}@localhost:1`, 'AMQP_URL must begin with amqp: or amqps:, not http'],
  [`amqp://guest:12#${SECRET}@localhost:1`, 'AMQP_URL holds an @ behind the host'],
  [`amqp://guest:12/${SECRET}@localhost:1`, 'AMQP_URL holds an @ behind the host'],
  ...['abc', '', '0.4', '-1'].map((text) =>
    [`${AT}localhost:1?heartbeat=${text}`, `heartbeat in AMQP_URL must be whole seconds, not "${text}"`]),
])('AMQP_URL is refused, and no password shown, where it is %s', async (url, named) => {
  vi.stubEnv('AMQP_URL', url);
  vi.spyOn(net, 'connect').mockImplementation(() => expect.fail('it connects'));
  await expect(RpcClient.connect()).rejects.toThrow(named);
  await expect(RpcClient.connect()).rejects.not.toThrow(SECRET);
});

const run = (script: Script, args: string[], AMQP_URL = 'amqp://localhost:1') =>
  new Command(process.execPath, [built(`src/${script}`), ...args], { AMQP_URL }).end();

test.each([
  ['rpc_server', /^Usage: npx ts-node src\/rpc_server.ts \[--delay MS\] \[--prefetch N\]\n[^]*default 0[^]*1[^]*amqp/],
  ['rpc_client', /^Usage: npx ts-node src\/rpc_client.ts \[--timeout MS\] \[N \.\.\.\]\n[^]*default 30\)[^]*30000/],
] as const)('%s --help prints the usage', async (script, usage) => {
  expect(await run(script, ['--help'])).toEqual({ status: 0, stdout: expect.stringMatching(usage), stderr: '' });
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
  const { status, stdout, stderr } = await run(script, args);
  expect([status, stdout, stderr]).toEqual([2, '', expect.stringMatching(/^ \[!\] .*\nUsage: /)]);
  expect(stderr.split('\n')[0]).toContain(named);
});

test.each(SCRIPTS)('%s ends with status 1 where AMQP_URL is refused, and names it', async (script) => {
  const stderr = ' [!] AMQP_URL is not a URL such as amqp://user:password@host:5672/vhost\n';
  expect(await run(script, [], 'localhost')).toEqual({ status: 1, stdout: '', stderr });
});
