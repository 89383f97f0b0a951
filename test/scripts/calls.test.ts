import type { Channel, ChannelModel, ConsumeMessage } from 'amqplib';
import { expect, test, vi } from 'vitest';
import { RpcClient, RpcError } from '../../src/rpc_client';
import { until } from '../support/processes';
import { replying, suite } from '../support/suite';

const it = suite();
const HOUR = { timeout: 3_600_000 };
const errorOf = (call: Promise<unknown>) => call.then(() => undefined, (error: RpcError) => error);

/** Counts the channels that are opened in this process from now on: each look takes one. */
const countLooks = async () => {
  const { connection } = await it.peer();
  return vi.spyOn(Object.getPrototypeOf(connection) as ChannelModel, 'createChannel');
};

/** A server that keeps the requests it gets. */
async function keeper(): Promise<{ requests: ConsumeMessage[]; channel: Channel }> {
  const requests: ConsumeMessage[] = [];
  return { requests, channel: await it.peerServer((_, request) => requests.push(request)) };
}

test('a client whose calls are answered never looks at rpc_queue', async () => {
  await it.peerServer(replying(['832040']));
  const { client } = await it.rpcClient();
  const looks = await countLooks();
  for (const begin = performance.now(); performance.now() - begin < 1_500;) await client.call(30, HOUR);
  expect(looks).not.toHaveBeenCalled();
});

test('calls that end together share looks, and an idle client none, though its servers are gone', async () => {
  const { channel } = await keeper();
  const { client, log } = await it.rpcClient();
  const looks = await countLooks();
  const calls = Array.from({ length: 50 }, () => errorOf(client.call(30, { timeout: 300 })));
  for (const error of await Promise.all(calls)) expect(error!.code).toBe('TIMEOUT');
  expect(looks.mock.calls.length).toBeLessThan(25); // one, if all their timers fire at once
  await channel.deleteQueue('rpc_queue');
  expect((await errorOf(client.call(30, { timeout: 300 })))!.code).toBe('TIMEOUT');
  looks.mockClear();
  await errorOf(client.call(30, { timeout: 3_000 })); // whose looks come at pauses that grow
  expect(looks.mock.calls.length).toBeLessThan(20);
  looks.mockClear();
  await until('three seconds', ((begin) => () => performance.now() - begin > 3_000)(performance.now()));
  expect(looks).not.toHaveBeenCalled();
  expect(log.filter((line) => /No reply for a second: there is no rpc_queue/.test(line))).toHaveLength(1);
});

test('a request that comes back is sent again when there is a server, once, and so are the later ones', async () => {
  await it.peerServer(replying(['1']));
  const { client } = await it.rpcClient();
  expect(await client.call(1, HOUR)).toBe(1n);
  await (await it.peer()).channel.deleteQueue('rpc_queue');
  const calls = [2, 3, 4].map((n) => client.call(n, HOUR));
  await until('the look of one', () => client.call(5, { timeout: 100 }).catch((error) => /there is no/.test(error)));
  const channel = await it.queue();
  const asked: string[] = [];
  await channel.consume('rpc_queue', (request) => {
    asked.push(request!.content.toString());
    replying(['7'])(channel, request!);
  }, { noAck: true });
  expect(await Promise.all(calls)).toEqual([7n, 7n, 7n]);
  expect(asked.sort()).toEqual(['2', '3', '4']);
});

test('of two silences that calls without a gap span, each is told', async () => {
  const { requests, channel } = await keeper();
  const { client, log } = await it.rpcClient();
  const answered = client.call(1, HOUR);
  void errorOf(client.call(2, HOUR));
  await until('the first silence', () => log.length === 1);
  replying(['1'])(channel, requests[0]!);
  expect(await answered).toBe(1n);
  await until('the second silence', () => log.length === 2);
  for (const line of log) expect(line).toBe('No reply for a second: rpc_queue has 1 server and 0 waiting requests');
});

test('an error has a code, what it came from as its cause, and is an object of its own', async () => {
  const server: Record<string, ReturnType<typeof replying>> = {
    1: replying(['no luck', { type: 'error' }]), 2: replying(['abc']), 3: () => {}, 4: () => {},
  };
  await it.peerServer((channel, request) => server[String(request.content)]!(channel, request));
  const { client } = await it.rpcClient();
  const [failed, nonsense, late] = await Promise.all([1, 2, 3].map((n) => errorOf(client.call(n, { timeout: 500 }))));
  expect(failed).toMatchObject({ name: 'RpcError', code: 'SERVER', message: 'no luck' });
  const cause = expect.any(Error);
  expect(nonsense).toMatchObject({ code: 'SERVER', message: expect.stringContaining('not a number'), cause });
  expect(late).toMatchObject({ code: 'TIMEOUT', message: expect.stringContaining('no reply within 500 ms; ') });
  expect(late).toBeInstanceOf(RpcError);
  expect('cause' in late!).toBe(false);
  const pending = [4, 4].map((n) => errorOf(client.call(n, HOUR)));
  await client.close();
  const closed = [...(await Promise.all(pending)), await errorOf(client.call(4))];
  for (const error of closed) expect(error).toMatchObject({ code: 'CLOSED', message: 'the client is closed' });
  expect(new Set(closed).size).toBe(3);
  const nowhere = await errorOf(RpcClient.connect({ url: 'amqp://localhost:1' }));
  expect(nowhere).toMatchObject({ code: 'CLOSED', message: expect.stringContaining('ECONNREFUSED'), cause });
});

test('await using closes the client, also where a call fails', async () => {
  await it.peerServer(replying(['abc']));
  let left: RpcClient | undefined;
  const use = async () => {
    await using client = await RpcClient.connect({ url: it.url });
    left = client;
    await client.call(1, HOUR);
  };
  expect(await errorOf(use())).toMatchObject({ code: 'SERVER' });
  expect(await errorOf(left!.call(1))).toMatchObject({ code: 'CLOSED' });
});

test('a server with --prefetch N has N requests in hand, and answers them all when it is told to stop', async () => {
  const holder = await it.server('--prefetch', '3', '--delay', '1000000');
  const { client } = await it.rpcClient();
  let answered = 0;
  const calls = [1, 2, 3, 4, 5].map((n) => client.call(n, HOUR).finally(() => answered++));
  await holder.shows(/fib/, { times: 3 });
  await it.queueHas({ messageCount: 2 });
  holder.kill('SIGKILL');
  const server = await it.server('--prefetch', '3', '--delay', '3000');
  await server.shows(/fib/, { times: 3 });
  server.kill('SIGTERM');
  expect(await server.exit()).toBe(0);
  await until('the answers to all that it took', () => answered === server.count(/fib/));
  await it.server();
  expect(await Promise.all(calls)).toEqual([1n, 1n, 2n, 3n, 5n]);
});
