// The server: what it answers, what it refuses, how several share the work, and how one ends.
import type { Writable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { fib } from '../src/fib';
import type { Command } from './support/machine';
import type { Proxy } from './support/proxy';
import { LOST, take, useVhost } from './support/vhost';

const vhost = useVhost();

/** Asks as a client of any other port may, and reads the replies. */
async function startAsking() {
  const { channel } = await vhost.openChannel();
  const { queue: replyTo } = await channel.assertQueue('', { exclusive: true });
  const ask = (body: string, properties: object = {}) => {
    const all = { replyTo, correlationId: 'id', ...properties };
    channel.sendToQueue('rpc_queue', Buffer.from(body), all);
  };
  return { ask, reply: () => take(channel, replyTo) };
}

test('a request is answered on the queue that it names, and refused if it names none', async () => {
  const server = await vhost.startServer();
  const settings = { durable: true, type: 'classic', exclusive: false, auto_delete: false };
  expect(await vhost.describeQueue('rpc_queue')).toMatchObject(settings); // which it has declared
  const { ask, reply } = await startAsking();
  ask('12', { replyTo: undefined });
  ask('30', { correlationId: 'a-1' });
  const { content, properties, fields } = await reply();
  expect([content.toString(), fields.exchange]).toEqual(['832040', '']);
  const expected = { correlationId: 'a-1', type: 'result', contentType: 'text/plain', headers: {} };
  expect(properties).toEqual(expected); // all others are undefined
  ask('7', { correlationId: undefined });
  expect((await reply()).properties).toMatchObject({ type: 'result', correlationId: undefined });
  await server.shows(/^ \[!\] Refused a request: it came without reply_to/m);
  await server.shows(/fib/, { times: 2 });
  expect(server.stdout).toBe(' [x] Awaiting RPC requests\n [.] fib(30)\n [.] fib(7)\n');
});

const CONTROLS = '\u001b]0;x\u0007\u009b31m\u202e\u007f';
const NONSENSE = ['', ' ', '30\n', '-1', '+1', '1.0', '1e3', '0x1f', '10001', '000030', '٣٠'];

test('nonsense is refused with an error that names it, and the next request answered', async () => {
  const server = await vhost.startServer();
  const { ask, reply } = await startAsking();
  const error = { type: 'error', correlationId: 'id', contentType: 'text/plain' };
  for (const body of [...NONSENSE, CONTROLS, 'x'.repeat(1_000_000)]) {
    ask(body);
    const { content, properties } = await reply();
    expect(properties).toMatchObject(error);
    const shown = JSON.stringify(body.length > 40 ? `${'x'.repeat(40)}…` : body);
    const message = `n must be a whole number from 0 to 10000, in digits; got ${shown}`;
    expect(content.toString()).toBe(message);
  }
  await server.shows(/^ \[!\] Refused a request: n must be .*; got ".*"$/m, { times: 13 });
  expect(server.stderr).toContain(String.raw`"\u001b]0;x\u0007\u{9b}31m\u{202e}\u{7f}"`);
  for (const n of ['0', '00030', '10000']) {
    ask(n);
    expect((await reply()).content.toString()).toBe(String(fib(Number(n))));
  }
});

test('a request whose properties cannot be sent back is acknowledged all the same', async () => {
  const server = await vhost.startServer();
  const { channel, connection } = await vhost.openChannel();
  const { stream } = connection.connection as unknown as { stream: Writable };
  const write = stream.write.bind(stream); // not UTF-8 where there are tildes, as amqplib never does
  const spoil = (bytes: Buffer) => bytes.toString('latin1').replaceAll('~', '\xff');
  stream.write = (bytes: Buffer) => write(Buffer.from(spoil(bytes), 'latin1'));
  const correlationId = '~'.repeat(200); // 600 bytes when it is written again, of 255 at most
  channel.sendToQueue('rpc_queue', Buffer.from('5'), { replyTo: 'nobody', correlationId });
  await server.shows(/^ \[!\] Cannot reply: /m);
  expect(await vhost.runClient().exit()).toBe(0);
});

test('servers share requests, one at a time; what one has that dies, another answers', async () => {
  const start = () => vhost.startServer(['--delay', '1000000']);
  const servers = [await start(), await start()];
  const client = vhost.runClient('1', '2', '3');
  await vhost.queueHas({ messageCount: 1 });
  for (const server of servers) {
    await server.shows(/fib/);
    server.kill('SIGKILL');
  }
  await vhost.startServer();
  expect(await client.exit()).toBe(0);
  expect(client.stderr).not.toMatch(/Lost|fib/);
  expect(servers.map((server) => server.count(/fib/))).toEqual([1, 1]);
});

test('a server told to stop answers what it has, takes no more, and ends with status 0', async () => {
  const server = await vhost.startServer(['--prefetch', '2', '--delay', '3000']);
  const client = vhost.runClient('1', '2', '3');
  await server.shows(/fib/, { times: 2 });
  server.kill('SIGINT');
  server.kill('SIGTERM'); // so soon it is no second signal: npx may hand a Ctrl-C on twice
  await vhost.queueHas({ messageCount: 1, consumerCount: 0 });
  expect([await server.exit(), server.count(/fib/)]).toEqual([0, 2]);
  await client.shows(/^ \[\.\] fib/m, { times: 2 });
  await vhost.startServer();
  expect(await client.exit()).toBe(0);
});

test.each([
  ['told again', 1, (server: Command) => pause(600).then(() => server.kill('SIGTERM'))],
  ['cut off', 0, (_: Command, line: Proxy) => line.cut()],
])('a server told to stop, and then %s, leaves its request to another', async (_, status, end) => {
  const line = await vhost.startProxy();
  const server = await vhost.startServer(['--delay', '2147483647'], line.url);
  const client = vhost.runClient(''); // an empty argument is none, and asks for fib(30)
  await server.shows(/fib\(30\)/);
  server.kill('SIGTERM');
  await vhost.queueHas({ consumerCount: 0 });
  await end(server, line); // a second signal only after 0.6 s: sooner, it is still the first
  expect([await server.exit(), server.stderr]).toEqual([status, '']);
  await vhost.startServer();
  expect(await client.exit()).toBe(0);
  expect(client.stdout).toBe(' [x] Requesting fib(30)\n [.] Got 832040\n');
});

test('a request whose reply takes the connection down is gone after two times', async () => {
  const line = await vhost.startProxy({ cutAt: '6765' });
  const server = await vhost.startServer([], line.url);
  const { ask } = await startAsking();
  for (let i = 0; i < 3; i++) ask('20', { replyTo: 'nobody' });
  expect(await vhost.runClient('30').exit()).toBe(0);
  // The first is seen twice; each next one may have been on its way when the connection was lost.
  expect([4, 5, 6]).toContain(server.count(/fib\(20\)/));
  await vhost.queueHas({ messageCount: 0, consumerCount: 1 });
});

test('rpc_queue is used whatever its settings, and declared again where it is deleted', async () => {
  const channel = await vhost.declareQueue({ arguments: { 'x-queue-type': 'quorum' } });
  const server = await vhost.startServer();
  await vhost.queueHas({ consumerCount: 1 });
  await channel.deleteQueue('rpc_queue');
  await server.shows(LOST);
  await server.shows(/RabbitMQ cancelled the consumer/);
  expect(await vhost.runClient().exit()).toBe(0);
});
