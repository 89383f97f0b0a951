import type { ConsumeMessage } from 'amqplib';
import { setTimeout as pause } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { until, type Command } from '../support/processes';
import { BACK, replying, suite } from '../support/suite';

const it = suite();

/** A server with a request in its hands, for as long as it is there, and the client that waits for the answer. */
async function inHand(url = it.url) {
  const server = await it.serverAt(url, '--delay', '2147483647');
  const client = it.client(''); // an empty argument is none, and asks for fib(30)
  await server.shows(/fib\(30\)/);
  return { server, client };
}

/** Starts a server, and expects the client to have its answers then. */
async function expectAnswer(client: Command): Promise<void> {
  await it.server();
  expect(await client.exit()).toBe(0);
}

test('a server killed amid a request loses nothing: another answers, and the client never notices', async () => {
  const { server, client } = await inHand();
  const other = await it.server();
  server.kill('SIGKILL');
  const stdout = ' [x] Requesting fib(30)\n [.] Got 832040\n';
  expect(await client.end()).toEqual({ status: 0, stdout, stderr: expect.not.stringMatching(/Lost|Dropped|fail/) });
  await other.shows(/fib\(30\)/);
  await it.queueHas({ messageCount: 0, consumerCount: 1 });
});

test('a server told to stop amid requests answers them, takes no other, and ends with status 0', async () => {
  const server = await it.server('--prefetch', '2', '--delay', '3000');
  const client = it.client('1', '2', '3');
  await server.shows(/fib/, { times: 2 });
  server.kill('SIGINT');
  server.kill('SIGTERM'); // which is no second time, so soon: npx may hand a Ctrl-C on twice
  await it.queueHas({ messageCount: 1, consumerCount: 0 });
  await client.shows(/^ \[\.\] fib/m, { times: 2 });
  expect(await server.exit()).toBe(0);
  expect(server.count(/fib/)).toBe(2);
  await expectAnswer(client);
});

test('a server told to stop a second time, during a long request, is gone at once, and another answers', async () => {
  const { server, client } = await inHand();
  server.kill('SIGTERM');
  await it.queueHas({ consumerCount: 0 });
  await pause(500); // sooner, it is still the first time
  server.kill('SIGTERM');
  expect(await server.exit()).toBe(1);
  await expectAnswer(client);
});

test('a server told to stop that then loses its connection takes nothing more, and another answers', async () => {
  const line = await it.proxy();
  const { server, client } = await inHand(line.url);
  server.kill('SIGTERM');
  await it.queueHas({ consumerCount: 0 });
  line.cut();
  const stdout = ' [x] Awaiting RPC requests\n [.] fib(30)\n';
  expect(await server.end()).toEqual({ status: 0, stdout, stderr: expect.not.stringMatching(/Refused|Cannot reply/) });
  await expectAnswer(client);
});

test('rpc_queue deleted under a server is served again, until the server is told to stop', async () => {
  const server = await it.server();
  await (await it.queue({ durable: true })).deleteQueue('rpc_queue');
  await server.shows(/Lost the connection .*the broker cancelled the consumer\. Trying/);
  await server.shows(/Awaiting/, { times: 2 });
  expect(await it.client().exit()).toBe(0);
  server.kill('SIGINT');
  expect(await server.exit()).toBe(0);
});

test.each(['deleteQueue', 'purgeQueue'] as const)('requests that are lost by %s end at their timeout', async (lose) => {
  const channel = await it.queue();
  const { call } = await it.rpcClient();
  const ends = Promise.allSettled([call(1, 6_000), call(2, 6_000)]);
  await it.queueHas({ messageCount: 2 });
  await channel[lose]('rpc_queue');
  await it.peerServer(replying(['55']));
  expect(await call(10)).toBe(55n); // so both would have been answered
  const reason = expect.objectContaining({ message: expect.stringContaining('no reply within 6000 ms') });
  expect(await ends).toEqual(Array(2).fill({ status: 'rejected', reason }));
});

test('a request whose reply takes the connection down is gone after two times, and others are answered', async () => {
  const line = await it.proxy({ cutAt: '6765' });
  const server = await it.serverAt(line.url);
  const channel = await it.queue();
  for (let i = 0; i < 3; i++) channel.sendToQueue('rpc_queue', Buffer.from('20'), { replyTo: 'nobody' });
  expect(await it.client('30').exit()).toBe(0);
  // The first is seen twice; each next one may have been on its way already when the connection was lost.
  expect([4, 5, 6]).toContain(server.count(/fib\(20\)/));
  await it.queueHas({ messageCount: 0, consumerCount: 1 });
});

test('a client that leaves early takes nobody down, and its expired requests are not computed', async () => {
  const server = await it.server('--delay', '2500');
  const client = it.client('--timeout', '2000', '1', '2', '3');
  await server.shows(/fib\(1\)/);
  expect(await client.exit()).toBe(1);
  const killed = it.client('4');
  await server.shows(/fib\(4\)/);
  killed.kill('SIGKILL');
  expect(await it.client('5').exit()).toBe(0);
  expect(server.stdout.match(/fib\(.\)/g)).toEqual(['fib(1)', 'fib(4)', 'fib(5)']);
  expect(server.stderr).toBe('');
});

test('a flood of calls, the reply queue deleted under it: all are answered', async () => {
  await it.server();
  const { call, says } = await it.rpcClient();
  const calls: Promise<bigint>[] = [];
  let answered = 0;
  const callOnce = () => calls.push(call(30).finally(() => answered++));
  const flood = setInterval(() => calls.length - answered < 500 && callOnce(), 1);
  await it.broker.deleteReplyQueues(it.vhost);
  await says(BACK);
  const before = calls.length;
  await until('answers on the new one', () => answered > before + 100);
  clearInterval(flood);
  expect(new Set(await Promise.all(calls))).toEqual(new Set([832040n]));
});

test.each([
  ['queue', { exclusive: true }, {}], ['consumer', {}, { exclusive: true }],
])('a %s exclusive to another program: it answers calls, and a server waits until it is gone', async (...row) => {
  const [, queue, consumer] = row;
  const { channel, connection } = await it.peer();
  await channel.assertQueue('rpc_queue', queue);
  const answer = (request: ConsumeMessage | null) => request && replying(['832040'])(channel, request);
  await channel.consume('rpc_queue', answer, { noAck: true, ...consumer });
  const server = it.run('rpc_server');
  await server.shows(/^ \[!\] Cannot reach .*(RESOURCE_LOCKED|in exclusive use).* Trying again/m);
  const line = await it.proxy();
  const { call } = await it.rpcClient(line.url);
  expect(await call(30)).toBe(832040n);
  line.cut();
  expect(await call(30)).toBe(832040n);
  await connection.close();
  await server.shows(/Awaiting/);
});
