import { expect, test } from 'vitest';
import { until, type Command } from '../support/processes';
import { BACK, suite } from '../support/suite';

const it = suite();

/** A server with a request in its hands, for as long as it is there, and the client that waits for the answer. */
async function inHand() {
  const server = await it.server('--delay', '2147483647');
  const client = it.client('30');
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

test.each(['SIGINT', 'SIGTERM'] as const)('a server that is idle ends with status 0 on %s', async (signal) => {
  const server = await it.server();
  server.kill(signal);
  expect(await server.exit()).toBe(0);
});

test('a server told to stop amid a request answers it, takes no other, and ends with status 0', async () => {
  const server = await it.server('--delay', '3000');
  const client = it.client('30', '31');
  await server.shows(/fib\(3.\)/);
  server.kill('SIGINT');
  server.kill('SIGTERM'); // which is no second time, so soon: npx may hand a Ctrl-C on twice
  await it.queueHas({ messageCount: 1, consumerCount: 0 });
  await client.shows(/^ \[\.\] fib/m);
  expect(await server.exit()).toBe(0);
  expect(server.count(/fib/)).toBe(1);
  await expectAnswer(client);
});

test('a server told to stop a second time, during a long request, is gone at once, and another answers', async () => {
  const { server, client } = await inHand();
  const start = Date.now();
  await until('exit', () => {
    server.kill('SIGTERM');
    return !server.running;
  });
  expect(await server.exit()).toBe(1);
  expect(Date.now() - start).toBeGreaterThanOrEqual(500); // sooner, it is still the first time
  await expectAnswer(client);
});

test('a server told to stop that then loses its connection takes nothing more, and another answers', async () => {
  const { server, client } = await inHand();
  server.kill('SIGTERM');
  await it.queueHas({ consumerCount: 0 });
  await it.broker.ctl('close_all_connections', '-p', it.vhost, 'test');
  const stdout = ' [x] Awaiting RPC requests\n [.] fib(30)\n';
  expect(await server.end()).toEqual({ status: 0, stdout, stderr: expect.not.stringMatching(/Refused|Cannot reply/) });
  await expectAnswer(client);
});

test('rpc_queue deleted under a server is served again', async () => {
  const server = await it.server();
  await (await it.peer()).channel.deleteQueue('rpc_queue');
  await server.shows(/Lost the connection .*the broker cancelled the consumer/);
  await server.shows(/Awaiting/, { times: 2 });
  expect(await it.client().exit()).toBe(0);
});

test('rpc_queue deleted with requests in it loses them: their calls end at their timeout', async () => {
  const server = await it.server('--delay', '1000000');
  const client = it.client('--timeout', '6000', '1', '2');
  await server.shows(/fib/);
  await it.queueHas({ messageCount: 1 });
  await (await it.peer()).channel.deleteQueue('rpc_queue');
  expect(await client.exit()).toBe(1);
  expect(client.count(/fib\(.\): no reply within 6000 ms/)).toBe(2);
});

test('a request whose reply takes the connection down is gone after two times, and others are answered', async () => {
  const server = await it.server();
  const channel = await it.queue();
  const hostile = { replyTo: 'amq.rabbitmq.reply-to.!!!.!!!' };
  for (let i = 0; i < 3; i++) channel.sendToQueue('rpc_queue', Buffer.from('5'), hostile);
  expect(await it.client('30').exit()).toBe(0);
  expect(server.count(/fib\(5\)/)).toBeLessThanOrEqual(6);
  await it.queueHas({ messageCount: 0, consumerCount: 1 });
});

test('a client that leaves early takes nobody down, and its expired requests are not computed', async () => {
  const server = await it.server('--delay', '1500');
  const client = it.client('--timeout', '1000', '1', '2', '3');
  await server.shows(/fib\(1\)/);
  expect(await client.exit()).toBe(1);
  expect(await it.client('4').exit()).toBe(0);
  expect(server.stdout.match(/fib\(.\)/g)).toEqual(['fib(1)', 'fib(4)']);
  const killed = it.client('5');
  await server.shows(/fib\(5\)/);
  killed.kill('SIGKILL');
  expect(await it.client('6').exit()).toBe(0);
  expect(server.stderr).toBe('');
});

/** Deletes the reply queue of the client that logs here, and waits until it is back. */
async function reconnect(log: string[]): Promise<void> {
  await it.broker.deleteReplyQueues(it.vhost);
  await until('the way back', () => BACK.test(log.join('\n')));
}

test('a flood of calls, the reply queue deleted under it: all are answered', async () => {
  await it.server();
  const { client, log } = await it.rpcClient();
  const calls: Promise<bigint>[] = [];
  const flood = setInterval(() => calls.push(client.call(30)), 1);
  await reconnect(log);
  const before = calls.length;
  await until('calls on the new one', () => calls.length > before + 100);
  clearInterval(flood);
  expect(new Set(await Promise.all(calls))).toEqual(new Set([832040n]));
});

test('a call pending at a reconnection, and one made after it, wait for a server that comes 14 s later', async () => {
  const channel = await it.queue();
  const { client, log } = await it.rpcClient();
  const pending = client.call(30);
  await it.queueHas({ messageCount: 1 });
  await reconnect(log);
  const back = performance.now();
  await channel.deleteQueue('rpc_queue'); // with the first copy of the request in it
  const late = client.call(10);
  await until('14 s', () => performance.now() - back >= 14_000);
  expect(log.join('\n')).toMatch(/No reply for a second: (there is no rpc_queue|rpc_queue has 0 servers)/);
  await it.server();
  expect(await Promise.all([pending, late])).toEqual([832040n, 55n]);
});
