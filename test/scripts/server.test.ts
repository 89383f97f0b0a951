import { describe, expect, test } from 'vitest';
import { garble, suite, take } from '../support/suite';

const it = suite();

/** Sends requests as a client of any other port would, and reads the replies. */
async function asker() {
  const { channel, connection } = await it.peer();
  const { queue } = await channel.assertQueue('', { exclusive: true });
  const ask = (body: string | Buffer, properties: object = {}) => {
    channel.sendToQueue('rpc_queue', Buffer.from(body), { replyTo: queue, correlationId: 'id', ...properties });
  };
  const reply = () => take(channel, queue);
  return { connection, ask, reply, answer: async () => (await reply()).content.toString() };
}

test('a request is answered on the queue it names, with its correlation id, as a result', async () => {
  const server = await it.server();
  const { ask, reply } = await asker();
  ask('30', { correlationId: 'a-1' });
  const { content, properties, fields } = await reply();
  expect(content.toString()).toBe('832040');
  expect(fields.exchange).toBe('');
  expect(Object.fromEntries(Object.entries(properties).filter(([, value]) => value !== undefined))).toEqual({
    correlationId: 'a-1',
    type: 'result',
    contentType: 'text/plain',
    headers: {},
  });
  await server.shows(/fib/);
  expect(server.stdout).toBe(' [x] Awaiting RPC requests\n [.] fib(30)\n');
  expect(server.stderr).toBe('');
});

test('a request without a correlation id is answered without one', async () => {
  await it.server();
  const { ask, reply } = await asker();
  ask('10', { correlationId: undefined });
  const { content, properties } = await reply();
  expect(content.toString()).toBe('55');
  expect(properties.correlationId).toBeUndefined();
});

test('a request without reply_to is logged, acknowledged and not computed', async () => {
  const server = await it.server();
  const { ask, answer } = await asker();
  ask('30', { replyTo: undefined });
  ask('12');
  expect(await answer()).toBe('144');
  await server.shows(/^ \[!\] .*fib\(30\) came without reply_to/m);
  await server.shows(/fib\(12\)$/m);
  expect(server.stdout).toBe(' [x] Awaiting RPC requests\n [.] fib(12)\n');
  server.kill('SIGKILL');
  await it.queueHas({ messageCount: 0, consumerCount: 0 });
});

test.each([
  ['abc', '"abc"'],
  ['', '""'],
  ['-1', '"-1"'],
  ['1000001', '"1000001"'],
  ['00000030', '"00000030"'],
  [' 30', '" 30"'],
  ['30\n', '"30\\\\n"'],
  ['x'.repeat(1_000_000), `"${'x'.repeat(40)}…"`],
])('nonsense (%#) is refused with an error that names it, and takes nobody down', async (body, shown) => {
  const server = await it.server();
  const { ask, reply, answer } = await asker();
  ask(body);
  const { content, properties } = await reply();
  expect(properties).toMatchObject({ type: 'error', correlationId: 'id', contentType: 'text/plain' });
  expect(content.toString()).toMatch(/^n must be a whole number from 0 to 1000000, in digits; got "/);
  expect(content.toString()).not.toMatch(/\n| at /);
  ask('7');
  expect(await answer()).toBe('13');
  await server.shows(new RegExp(String.raw`^ \[!\] Refused a request: .*got ${shown}$`, 'm'));
  expect(server.stderr.split('\n')).toHaveLength(2);
});

test('a request whose properties cannot be sent back is acknowledged all the same', async () => {
  const server = await it.server();
  const { ask, answer, connection } = await asker();
  garble(connection);
  ask('5', { correlationId: '~'.repeat(200) }); // 600 bytes when it is written again, of 255 at most
  ask('8');
  expect(await answer()).toBe('21');
  await server.shows(/^ \[!\] Cannot reply: /m);
});

describe('servers', () => {
  test('share the requests, and hold one at a time', async () => {
    const servers = [await it.server('--delay', '300'), await it.server('--delay', '300')];
    const { ask, reply } = await asker();
    for (let n = 1; n <= 6; n++) ask(String(n));
    await it.queueHas({ messageCount: 4 });
    for (let n = 1; n <= 6; n++) await reply();
    for (const server of servers) await server.shows(/fib/, { count: 3 }); // of six
  });

  test('with more work than they take leave the rest to those that come', async () => {
    const slow = await it.server('--delay', '1000000');
    const { ask, answer } = await asker();
    for (let n = 1; n <= 3; n++) ask(String(n));
    await slow.shows(/fib\(1\)/);
    await it.queueHas({ messageCount: 2 });
    await it.server();
    expect([await answer(), await answer()]).toEqual(['1', '2']);
    expect(slow.stdout.match(/fib/g)).toHaveLength(1);
  });

  test('work side by side with any number of clients', async () => {
    await it.server();
    const askers = await Promise.all([asker(), asker(), asker()]);
    askers.forEach(({ ask }, i) => ask(String(i + 10)));
    expect(await Promise.all(askers.map(({ answer }) => answer()))).toEqual(['55', '89', '144']);
  });
});

describe('rpc_queue', () => {
  test('is declared durable and without a type where it is missing', async () => {
    await it.server();
    const queue = await it.broker.api('GET', `queues/${encodeURIComponent(it.vhost)}/rpc_queue`);
    expect(queue).toMatchObject({ durable: true, type: 'classic', exclusive: false, auto_delete: false });
  });

  test.each([
    ['transient', { durable: false }],
    ['durable', { durable: true }],
    ['quorum', { durable: true, arguments: { 'x-queue-type': 'quorum' } }],
    ['limited', { durable: true, arguments: { 'x-max-length': 1_000, 'x-message-ttl': 60_000 } }],
  ])('is used as it is where it is %s', async (_, options) => {
    await it.queue(options);
    await it.server();
    const { ask, answer } = await asker();
    ask('30');
    expect(await answer()).toBe('832040');
  });
});

test('npx ts-node src/rpc_server.ts serves until Ctrl-C, and finishes the request it has then', async () => {
  const server = it.npx('rpc_server', '--delay', '2000');
  await server.shows(/^ \[x\] Awaiting RPC requests$/m);
  const { ask, answer } = await asker();
  ask('30');
  await server.shows(/fib\(30\)/);
  process.kill(-server.child.pid!, 'SIGINT'); // as a terminal does, to all of them; npx may hand it on a second time
  expect(await answer()).toBe('832040');
  await server.exit();
});
