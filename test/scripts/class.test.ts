import { expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { RpcClient } from '../../src/rpc_client';
import { until } from '../support/processes';
import { peerServer, replying, suite } from '../support/suite';

const it = suite();

test('has many calls in flight on one connection, and prints nothing', async () => {
  await it.server();
  const client = await it.rpcClient();
  const numbers = Array.from({ length: 300 }, (_, n) => n);
  expect(await Promise.all(numbers.map((n) => client.call(n)))).toEqual(numbers.map(fib));
});

test('refuses a bad n and a bad timeout, and sends nothing', async () => {
  await it.queue();
  const client = await it.rpcClient();
  for (const n of [-1, 1.5, NaN, 1_000_001, '' as unknown as number]) {
    await expect(client.call(n)).rejects.toThrow(RangeError);
  }
  for (const timeout of [0, -1, 1.5, NaN, Infinity, 2 ** 31]) {
    const message = `timeout must be a whole number of milliseconds from 1 to 2147483647; got "${timeout}"`;
    await expect(client.call(1, { timeout })).rejects.toThrow(message);
    await expect(RpcClient.connect({ timeout })).rejects.toThrow(RangeError);
  }
  await client.close();
  await it.queueHas({ messageCount: 0 });
});

test('close rejects what is pending and what comes later', async () => {
  await it.queue();
  const client = await it.rpcClient();
  const pending = [client.call(1), client.call(2)].map((call) => call.catch((error: Error) => error.message));
  await client.close();
  expect(await Promise.all(pending)).toEqual(['the client is closed', 'the client is closed']);
  await expect(client.call(3)).rejects.toThrow('the client is closed');
  await client.close();
});

test('reaches the broker that its url names, whatever AMQP_URL says, and two at the same time', async () => {
  const other = await it.another();
  await peerServer(it, replying(['1']));
  await peerServer(other, replying(['2']));
  process.env.AMQP_URL = 'amqp://localhost:1';
  const clients = [await RpcClient.connect({ url: it.url }), await RpcClient.connect({ url: other.url })];
  expect(await Promise.all(clients.map((client) => client.call(30)))).toEqual([1n, 2n]);
  await Promise.all(clients.map((client) => client.close()));
  await expect(RpcClient.connect({ url: 'localhost' })).rejects.toThrow('url is not a URL such as');
});

test('drops a reply with an unknown, an empty or no correlation id, and one that comes twice', async () => {
  await peerServer(it, (channel, request) => {
    replying(['1', { correlationId: 'unknown' }], ['2', { correlationId: '' }])(channel, request);
    replying(['3', { correlationId: undefined }], ['832040'], ['832040'], ['4'])(channel, request);
  });
  const log: string[] = [];
  const client = await it.rpcClient({ log: (line) => log.push(line) });
  expect(await client.call(30)).toBe(832040n);
  await until('five dropped', () => log.length === 5);
  const dropped = ['1', '2', '3', '832040', '4'];
  expect(log).toEqual(dropped.map((body) => `Dropped a reply that no call waits for: "${body}"`));
  expect(await client.call(30)).toBe(832040n);
});

test.each([
  ['an empty one', '', '""'],
  ['a word', 'abc', '"abc"'],
  ['a negative number', '-6246583658587674878', '"-6246583658587674878"'],
  ['hexadecimal digits', '0x1f', '"0x1f"'],
  ['invalid UTF-8', Buffer.from([0xff, 0xfe]), '"��"'],
  ['10 MB of digits', '1'.repeat(10_000_000), '10000000 bytes'],
  ['control characters', '\u001b]0;x\u0007', '"\\u001b]0;x\\u0007"'],
])('rejects a call whose reply is no number: %s', async (_, body, named) => {
  await peerServer(it, (channel, request) => {
    replying(request.content.toString() === '1' ? [body] : ['1'])(channel, request);
  });
  const client = await it.rpcClient();
  await expect(client.call(1)).rejects.toThrow(named);
  expect(await client.call(2)).toBe(1n); // on the same connection
});

test('rejects a call with the error of a server, cut and escaped', async () => {
  await peerServer(it, replying([`\u001b[31m${'x'.repeat(1_000)}`, { type: 'error' }]));
  const client = await it.rpcClient();
  const message = await client.call(1).then(String, (error: Error) => error.message);
  expect(message).toBe(`\\u{1b}[31m${'x'.repeat(495)}`);
});

test('says of a late call what the queue looks like now, not what it looked like once', async () => {
  const client = await it.rpcClient();
  await expect(client.call(30)).rejects.toThrow('there is no rpc_queue');
  const channel = await it.queue();
  await channel.consume('rpc_queue', () => {});
  const call = () => client.call(30, { timeout: 200 }).then(String, (error: Error) => error.message);
  const now = 'when last seen, rpc_queue has 1 server and 0 waiting requests';
  await until('what is so now', async () => (await call()).endsWith(now));
});

test('rejects a call that the broker refuses, since the queue is full', async () => {
  await it.queue({ arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' } });
  const client = await it.rpcClient();
  const first = client.call(1).catch((error: Error) => error.message);
  await it.queueHas({ messageCount: 1 });
  await expect(client.call(2)).rejects.toThrow('the broker refuses the request: rpc_queue is full');
  await client.close();
  expect(await first).toBe('the client is closed');
});
