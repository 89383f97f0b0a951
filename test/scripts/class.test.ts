import { connect } from 'amqplib';
import net from 'node:net';
import { expect, onTestFinished, test, vi } from 'vitest';
import { RpcClient } from '../../src/rpc_client';
import { until } from '../support/processes';
import { replying, suite, type Scene } from '../support/suite';

const it = suite();
const messageOf = (call: Promise<bigint>) => call.then(String, (error: Error) => error.message);

test('refuses a bad n and a bad timeout, and sends nothing', async () => {
  const requests: string[] = [];
  await it.peerServer((...all) => (requests.push(all[1].content.toString()), replying(['13'])(...all)));
  const { client } = await it.rpcClient();
  for (const n of [-1, 1.5, NaN, 1_000_001, '' as unknown as number]) {
    await expect(client.call(n)).rejects.toThrow(RangeError);
  }
  for (const timeout of [0, -1, 1.5, NaN, Infinity, 2 ** 31]) {
    const message = `timeout must be a whole number from 1 to 2147483647; got "${timeout}"`;
    await expect(client.call(1, { timeout })).rejects.toThrow(message);
  }
  expect(await client.call(7)).toBe(13n);
  expect(requests).toEqual(['7']);
});

test('gives each request the time that its call has left, also when it is sent again', async () => {
  const expirations: number[] = [];
  await it.peerServer((_, { properties }) => expirations.push(Number(properties.expiration)));
  const line = await it.proxy();
  const { client, log } = await it.rpcClient(line.url);
  const before = performance.now();
  const call = messageOf(client.call(30, { timeout: 600_000 }));
  const after = performance.now();
  await until('the first', () => expirations.length === 1);
  await line.refuse();
  await until('the loss', () => log.length > 0);
  const back = performance.now();
  await line.listen();
  await until('the second', () => expirations.length === 2);
  expect(expirations[1]).toBeLessThanOrEqual(Math.ceil(600_000 - (back - after)));
  expect(Math.min(...expirations)).toBeGreaterThanOrEqual(Math.floor(600_000 - (performance.now() - before)));
  await client.close();
  await call;
});

test('reaches the broker that its url names, whatever AMQP_URL says, and two at the same time', async () => {
  const other = await it.another();
  await it.peerServer(replying(['1']));
  await other.peerServer(replying(['2']));
  vi.stubEnv('AMQP_URL', 'amqp://localhost:1');
  const both = [await it.rpcClient(), await other.rpcClient()];
  expect(await Promise.all(both.map(({ client }) => client.call(30)))).toEqual([1n, 2n]);
  await expect(RpcClient.connect({ url: 'localhost' })).rejects.toThrow('url is not a URL such as');
});

test.each([undefined, ''])('is guest at localhost:5672 where url is not given and AMQP_URL is %j', async (AMQP_URL) => {
  vi.stubEnv('AMQP_URL', AMQP_URL);
  const { connect } = net;
  const { host, port } = it.broker.details; // reached in any case, and never the broker of somebody else
  const spy = vi.spyOn(net, 'connect').mockImplementation(((options: net.TcpNetConnectOpts, ...rest: []) =>
    connect({ ...options, host, port }, ...rest)) as typeof net.connect);
  onTestFinished(() => spy.mockRestore());
  await (await RpcClient.connect()).close();
  expect(spy.mock.lastCall![0]).toMatchObject({ host: 'localhost', port: 5672 });
  await (await RpcClient.connect({ url: it.url.replace('guest:guest@', '') })).close();
});

/** How long two calls take where they are fast (the third of 20 pairs), in milliseconds. */
async function timeOfTwoCalls(scene: Scene): Promise<number> {
  const { client } = await scene.rpcClient();
  const times: number[] = [];
  while (times.length < 20) {
    const calledAt = performance.now();
    for (let i = 0; i < 2; i++) await client.call(30); // of a server that has it on, one in two is slow
    times.push(performance.now() - calledAt);
  }
  return times.sort((x, y) => x - y)[2]!;
}

test("a call takes none of the 40 ms that Nagle's algorithm adds where a server has it on", async () => {
  const other = await it.another();
  await it.server();
  const connection = await connect(other.url); // as amqplib does by default
  onTestFinished(() => connection.close());
  const channel = await connection.createChannel();
  await channel.assertQueue('rpc_queue');
  await channel.consume('rpc_queue', (request) => {
    replying(['832040'])(channel, request!);
    channel.ack(request!);
  });
  expect((await timeOfTwoCalls(other)) / (await timeOfTwoCalls(it))).toBeGreaterThan(4);
});

test('drops a reply with an unknown, an empty or no correlation id, and one that comes twice', async () => {
  await it.peerServer((channel, request) => {
    replying(['1', { correlationId: 'unknown' }], ['2', { correlationId: '' }])(channel, request);
    replying(['3', { correlationId: undefined }], ['832040'], ['832040'], ['4'])(channel, request);
  });
  const { client, log } = await it.rpcClient();
  expect(await client.call(30)).toBe(832040n);
  await until('five dropped', () => log.length === 5);
  const dropped = ['1', '2', '3', '832040', '4'];
  expect(log).toEqual(dropped.map((body) => `Dropped a reply that no call waits for: "${body}"`));
  expect(await client.call(30)).toBe(832040n);
});

test.each([
  ['an empty one', '', '""'], ['a word', 'abc', '"abc"'], ['hexadecimal digits', '0x1f', '"0x1f"'],
  ['a negative number', '-6246583658587674878', '"-6246583658587674878"'],
  ['invalid UTF-8', Buffer.from([0xff, 0xfe]), '"��"'],
  ['10 MB of digits', '1'.repeat(10_000_000), '10000000 bytes'],
  ['control characters', '\u001b]0;x\u0007', '"\\u001b]0;x\\u0007"'],
])('rejects a call whose reply is no number: %s', async (_, body, named) => {
  await it.peerServer((...all) => replying(all[1].content.toString() === '1' ? [body] : ['1'])(...all));
  const { client } = await it.rpcClient();
  await expect(client.call(1)).rejects.toThrow(named);
  expect(await client.call(2)).toBe(1n); // on the same connection
});

test('says of a late call what the queue looks like now, not what it looked like once', async () => {
  const { client } = await it.rpcClient();
  const expectSeen = (seen: string) => until(seen, async () => {
    const message = await messageOf(client.call(30, { timeout: 300 }));
    return !message.includes('the broker does not answer') && (expect(message).toContain(seen), true); // in 200 ms
  });
  await expectSeen('no reply within 300 ms; there is no rpc_queue: start a server with: ');
  const channel = await it.peerServer(() => {});
  await expectSeen('no reply within 300 ms; rpc_queue has 1 server');
  await channel.close();
  await expectSeen('no reply within 300 ms; rpc_queue has 0 servers');
});

test('rejects a call that the broker refuses, since the queue is full', async () => {
  await it.queue({ arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' } });
  const { client } = await it.rpcClient();
  messageOf(client.call(1));
  await it.queueHas({ messageCount: 1 });
  await expect(client.call(2)).rejects.toThrow('the broker refuses the request: rpc_queue is full');
});

test('says that there is no reply a second after the call, and not before, however busy the program was', async () => {
  await it.queue();
  const { client, log } = await it.rpcClient();
  for (const end = performance.now() + 500; performance.now() < end;); // a timer that is started now counts from before
  const calledAt = performance.now();
  messageOf(client.call(30));
  while (log.length === 0) await new Promise(setImmediate);
  expect(performance.now() - calledAt).toBeGreaterThanOrEqual(1_000);
});

test('says it once for as many servers, and again when there are more, or fewer', async () => {
  const channels = [await it.peerServer(() => {}), await it.peerServer(() => {})];
  const { client, log } = await it.rpcClient();
  messageOf(client.call(30));
  await until('two servers', () => log.length === 1);
  await channels[0]!.close();
  await until('one server', () => log.length === 2);
  await channels[1]!.close();
  await until('no server', () => log.length === 3);
  const servers = log.map((line) => /^No reply for a second: rpc_queue has (\d) server/.exec(line)?.[1]);
  expect(servers).toEqual(['2', '1', '0']);
});
