import net from 'node:net';
import { expect, test, vi } from 'vitest';
import { RpcClient, RpcError } from '../../src/rpc_client';
import { until } from '../support/processes';
import { errorOf, replying, suite, type Scene } from '../support/suite';

const it = suite();

test('refuses a bad n and a bad timeout, and sends nothing', async () => {
  const requests: string[] = [];
  await it.peerServer((...all) => (requests.push(String(all[1].content)), replying(['13'])(...all)));
  const { client } = await it.rpcClient();
  for (const n of [-1, 1_000_001, '' as unknown as number]) await expect(client.call(n)).rejects.toThrow(RangeError);
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
  const { call } = await it.rpcClient(line.url);
  const before = performance.now();
  void errorOf(call(30, 600_000));
  const after = performance.now();
  await until('the first', () => expirations.length === 1);
  const cutAt = performance.now();
  line.cut();
  await until('the second', () => expirations.length === 2);
  expect(expirations[1]).toBeLessThanOrEqual(Math.ceil(600_000 - (cutAt - after)));
  expect(Math.min(...expirations)).toBeGreaterThanOrEqual(Math.floor(600_000 - (performance.now() - before)));
});

test('reaches the broker that its url names, whatever AMQP_URL says, and two at the same time', async () => {
  const other = await it.another();
  await it.peerServer(replying(['1']));
  await other.peerServer(replying(['2']));
  vi.stubEnv('AMQP_URL', 'amqp://localhost:1');
  const both = [await it.rpcClient(), await other.rpcClient()];
  expect(await Promise.all(both.map(({ call }) => call(30)))).toEqual([1n, 2n]);
  await expect(RpcClient.connect({ url: 'localhost' })).rejects.toThrow('url is not a URL such as');
});

test.each([undefined, ''])('is guest at localhost:5672 where url is not given and AMQP_URL is %j', async (AMQP_URL) => {
  vi.stubEnv('AMQP_URL', AMQP_URL);
  const { connect } = net;
  const { host, port } = it.broker.details; // reached in any case, and never the broker of somebody else
  const spy = vi.spyOn(net, 'connect').mockImplementation(((options: net.TcpNetConnectOpts, ...rest: []) =>
    connect({ ...options, host, port }, ...rest)) as typeof net.connect);
  await (await RpcClient.connect()).close();
  expect(spy.mock.lastCall![0]).toMatchObject({ host: 'localhost', port: 5672 });
  await (await RpcClient.connect({ url: it.url.replace('guest:guest@', '') })).close();
});

test('closes its connection as RabbitMQ expects it, however soon', async () => {
  await (await RpcClient.connect({ url: it.url })).close();
  const end = new RegExp(`closing AMQP connection .*vhost: '${it.vhost}'.*\n(.*)`);
  await until('the end', () => end.test(it.broker.log));
  expect(end.exec(it.broker.log)![1]).not.toContain('client unexpectedly closed TCP connection');
});

/** How long two calls take where they are fast (the third of 100 pairs), in milliseconds. */
async function timeOfTwoCalls(scene: Scene): Promise<number> {
  const { call } = await scene.rpcClient();
  const times: number[] = [];
  while (times.length < 100) {
    const calledAt = performance.now();
    for (let i = 0; i < 2; i++) await call(30); // of a server that has it on, one in two is slow
    times.push(performance.now() - calledAt);
  }
  return times.sort((x, y) => x - y)[2]!;
}

test("a call takes none of the 40 ms that Nagle's algorithm adds where a server has it on", async () => {
  const other = await it.another();
  await it.server();
  const { channel } = await other.peer({ noDelay: false }); // amqplib's default
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
  const { call, log } = await it.rpcClient();
  expect(await call(30)).toBe(832040n);
  const dropped = () => log.filter((line) => !line.startsWith('No reply for a second'));
  await until('five dropped', () => dropped().length === 5);
  const bodies = ['1', '2', '3', '832040', '4'];
  expect(dropped()).toEqual(bodies.map((body) => `Dropped a reply that no call waits for: "${body}"`));
  expect(await call(30)).toBe(832040n);
});

test('rejects a call whose reply is no number, and goes on', async () => {
  const replies: [string | Buffer, string][] = [
    ['', '""'], ['abc', '"abc"'], ['0x1f', '"0x1f"'], ['-6246583658587674878', '"-6246583658587674878"'],
    [Buffer.from([0xff, 0xfe]), '"��"'], ['1'.repeat(10_000_000), '10000000 bytes'],
    ['\u001b]0;x\u0007', '"\\u001b]0;x\\u0007"'],
  ];
  await it.peerServer((...all) => replying([replies[Number(all[1].content)]?.[0] ?? '1'])(...all));
  const { call } = await it.rpcClient();
  for (const [n, [, named]] of replies.entries()) await expect(call(n)).rejects.toThrow(named);
  expect(await call(replies.length)).toBe(1n);
});

test('rejects a call that the broker refuses, since the queue is full', async () => {
  await it.queue({ arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' } });
  const { call } = await it.rpcClient();
  void errorOf(call(1));
  await it.queueHas({ messageCount: 1 });
  const message = 'the broker refuses the request: rpc_queue is full, or has no leader';
  expect(await errorOf(call(2))).toMatchObject({ code: 'REFUSED', message });
});

test('an error has a code, what it came from as its cause, and is an object of its own', async () => {
  const server: Record<string, ReturnType<typeof replying>> = {
    1: replying(['no luck', { type: 'error' }]), 2: replying(['abc']), 3: () => {}, 4: () => {},
  };
  await it.peerServer((channel, request) => server[String(request.content)]!(channel, request));
  const { client, call } = await it.rpcClient();
  const [failed, nonsense, late] = await Promise.all([call(1), call(2), call(3, 500)].map(errorOf));
  expect(failed).toMatchObject({ name: 'RpcError', code: 'SERVER', message: 'no luck' });
  const cause = expect.any(Error);
  expect(nonsense).toMatchObject({ code: 'SERVER', message: expect.stringContaining('not a number'), cause });
  expect(late).toMatchObject({ code: 'TIMEOUT', message: expect.stringContaining('no reply within 500 ms; ') });
  expect(late).toBeInstanceOf(RpcError);
  expect('cause' in late!).toBe(false);
  const pending = [call(4), call(4)].map(errorOf);
  await client.close();
  const closed = [...(await Promise.all(pending)), await errorOf(call(4))];
  for (const error of closed) expect(error).toMatchObject({ code: 'CLOSED', message: 'the client is closed' });
  expect(new Set(closed).size).toBe(3);
  const nowhere = await errorOf(RpcClient.connect({ url: 'amqp://localhost:1' }));
  expect(nowhere).toMatchObject({ code: 'CLOSED', message: expect.stringContaining('ECONNREFUSED'), cause });
});
