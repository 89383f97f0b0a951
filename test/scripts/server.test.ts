import { describe, expect, test } from 'vitest';
import { Broker } from '../support/broker';
import { freePort, until } from '../support/processes';
import { garble, suite, take } from '../support/suite';

const it = suite();

/** Sends requests as a client of any other port would, and reads the replies. */
async function asker() {
  const { channel, connection } = await it.peer();
  const { queue } = await channel.assertQueue('', { exclusive: true });
  const ask = (body: string | Buffer, properties: object = {}) => {
    channel.sendToQueue('rpc_queue', Buffer.from(body), { replyTo: queue, correlationId: 'id', ...properties });
  };
  return { channel, connection, queue, ask, reply: () => take(channel, queue) };
}

const empty = async (channel: { checkQueue(name: string): Promise<{ messageCount: number }> }) =>
  (await channel.checkQueue('rpc_queue')).messageCount === 0;

describe('a request', () => {
  test('is answered on the queue it names, with its correlation id, as a result', async () => {
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

  test('without a correlation id is answered without one', async () => {
    await it.server();
    const { ask, reply } = await asker();
    ask('10', { correlationId: undefined });
    const { content, properties } = await reply();
    expect(content.toString()).toBe('55');
    expect(properties.correlationId).toBeUndefined();
  });

  test('without reply_to is logged, acknowledged and not computed', async () => {
    const server = await it.server();
    const { ask, reply, channel } = await asker();
    ask('30', { replyTo: undefined });
    ask('12', {});
    expect((await reply()).content.toString()).toBe('144');
    await server.shows(/^ \[!\] .*fib\(30\) came without reply_to/m);
    await server.shows(/fib\(12\)$/m);
    expect(server.stdout).toBe(' [x] Awaiting RPC requests\n [.] fib(12)\n');
    server.kill('SIGKILL');
    await until('an empty rpc_queue', () => empty(channel));
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
  ])('%# is refused with an error that names it, and takes nobody down', async (body, shown) => {
    const server = await it.server();
    const { ask, reply } = await asker();
    ask(body);
    const { content, properties } = await reply();
    expect(properties).toMatchObject({ type: 'error', correlationId: 'id', contentType: 'text/plain' });
    expect(content.toString()).toMatch(/^n must be a whole number from 0 to 1000000, in digits; got "/);
    expect(content.toString()).not.toMatch(/\n| at /);
    ask('7');
    expect((await reply()).content.toString()).toBe('13');
    await server.shows(new RegExp(String.raw`^ \[!\] Refused a request: .*got ${shown}$`, 'm'));
    expect(server.stderr.split('\n')).toHaveLength(2);
  });

  test('whose properties cannot be sent back is acknowledged all the same', async () => {
    const server = await it.server();
    const { ask, reply, connection } = await asker();
    garble(connection);
    ask('5', { correlationId: '~'.repeat(200) }); // 600 bytes when it is written again, of 255 at most
    ask('8');
    expect((await reply()).content.toString()).toBe('21');
    await server.shows(/^ \[!\] Cannot reply: /m);
  });

  test('is held for --delay, and the process goes on meanwhile', async () => {
    const server = await it.server('--delay', '2147483647');
    const { ask } = await asker();
    ask('30');
    await server.shows(/fib\(30\)/);
    const start = Date.now();
    // The first is noticed, though the request would take 25 days; later ones count after half a second.
    await until('exit', () => !server.running || (server.kill('SIGTERM'), false), 2_000);
    expect(await server.exit()).toBe(1);
    expect(Date.now() - start).toBeGreaterThanOrEqual(500);
  });
});

describe('servers', () => {
  test('share the requests, and hold one at a time', async () => {
    const servers = [await it.server('--delay', '300'), await it.server('--delay', '300')];
    const { ask, reply, channel } = await asker();
    for (let n = 1; n <= 6; n++) ask(String(n));
    await until('two requests in hand', async () => (await channel.checkQueue('rpc_queue')).messageCount === 4);
    for (let n = 1; n <= 6; n++) await reply();
    for (const server of servers) await server.shows(/fib/, { count: 3 }); // of six
  });

  test('with more work than they take leave the rest to those that come', async () => {
    const slow = await it.server('--delay', '1000000');
    const { ask, reply, channel } = await asker();
    for (let n = 1; n <= 3; n++) ask(String(n));
    await slow.shows(/fib\(1\)/);
    await until('one request in hand', async () => (await channel.checkQueue('rpc_queue')).messageCount === 2);
    await it.server();
    expect([(await reply()).content.toString(), (await reply()).content.toString()]).toEqual(['1', '2']);
    expect(slow.stdout.match(/fib/g)).toHaveLength(1);
  });

  test('work side by side with any number of clients', async () => {
    await it.server();
    const askers = await Promise.all([asker(), asker(), asker()]);
    askers.forEach(({ ask }, i) => ask(String(i + 10)));
    const values = await Promise.all(askers.map(async ({ reply }) => (await reply()).content.toString()));
    expect(values).toEqual(['55', '89', '144']);
  });
});

describe('rpc_queue', () => {
  test('is declared durable and without a type where it is missing', async () => {
    await it.server();
    const queues = await it.broker.ctl('list_queues', '-p', it.vhost, 'name', 'durable', 'type', 'arguments', 'exclusive', 'auto_delete');
    expect(queues).toMatch(/^rpc_queue\ttrue\tclassic\t\[.*\]\tfalse\tfalse$/m); // RabbitMQ 4 adds the type itself
  });

  test.each([
    ['transient', { durable: false }],
    ['durable', { durable: true }],
    ['quorum', { durable: true, arguments: { 'x-queue-type': 'quorum' } }],
    ['limited', { durable: true, arguments: { 'x-max-length': 1_000, 'x-message-ttl': 60_000 } }],
  ])('is used as it is where it is %s', async (_, options) => {
    const { channel } = await it.peer();
    await channel.assertQueue('rpc_queue', options);
    await it.server();
    const { ask, reply } = await asker();
    ask('30');
    expect((await reply()).content.toString()).toBe('832040');
  });
});

describe('SIGINT and SIGTERM', () => {
  test.each(['SIGINT', 'SIGTERM'] as const)('%s ends an idle server with status 0', async (signal) => {
    const server = await it.server();
    server.kill(signal);
    expect(await server.exit(2_000)).toBe(0);
  });

  test('let the request in hand finish, and take no other', async () => {
    const server = await it.server('--delay', '700');
    const { ask, reply, channel } = await asker();
    ask('30');
    await server.shows(/fib\(30\)/);
    ask('31');
    server.kill('SIGTERM');
    expect((await reply()).content.toString()).toBe('832040');
    expect(await server.exit(2_000)).toBe(0);
    expect(server.stdout).not.toContain('fib(31)');
    expect(await channel.checkQueue('rpc_queue')).toMatchObject({ messageCount: 1, consumerCount: 0 });
  });

  test('twice within half a second are one, as npx passes Ctrl-C on', async () => {
    const server = await it.server('--delay', '700');
    const { ask, reply, channel } = await asker();
    ask('30');
    await server.shows(/fib\(30\)/);
    server.kill('SIGINT');
    await until('the first has come', async () => (await channel.checkQueue('rpc_queue')).consumerCount === 0);
    server.kill('SIGINT');
    expect((await reply()).content.toString()).toBe('832040');
    expect(await server.exit(2_000)).toBe(0);
  });
});

describe('the command line of the server', () => {
  test('--help prints the usage, the default and the environment variable', async () => {
    const server = it.run('rpc_server', ['--help']);
    expect(await server.exit()).toBe(0);
    expect(server.stdout).toMatch(/^Usage: npx ts-node src\/rpc_server.ts \[--delay MS\]\n[^]*default 0[^]*AMQP_URL[^]*guest@localhost:5672/);
    expect(server.stderr).toBe('');
  });

  test.each([
    [['--delay', '-1'], '--delay'],
    [['--delay=-1'], '"-1"'],
    [['--delay', '1.5'], '"1.5"'],
    [['--delay', '2147483648'], '"2147483648"'],
    [['--delay', ''], '""'],
    [['--delay'], '--delay'],
    [['30'], "'30'"],
    [['--dealy', '3'], '--dealy'],
    [['--\u001b[31m'], '\\u{1b}[31m'],
  ])('%j is wrong usage', async (args, named) => {
    const server = it.run('rpc_server', args, { AMQP_URL: 'amqp://localhost:1' });
    expect(await server.exit()).toBe(2);
    expect(server.stdout).toBe('');
    expect(server.stderr).toMatch(/^ \[!\] .*\nUsage: /);
    expect(server.stderr.split('\n')[0]).toContain(named);
  });
});

describe('a server without a broker', () => {
  test('says where it looked, why it failed and how to start one, and serves once there is one', async () => {
    const port = await freePort();
    const AMQP_URL = `amqp://guest:guest@localhost:${port}`;
    const server = it.run('rpc_server', [], { AMQP_URL });
    await server.shows(new RegExp(`^ \\[!\\] Cannot reach RabbitMQ at localhost:${port}: connect ECONNREFUSED .*npm run broker`, 'm'));
    await Broker.start({ port });
    await server.shows(/^ \[x\] Awaiting RPC requests$/m);
    const client = it.run('rpc_client', [], { AMQP_URL });
    expect(await client.exit()).toBe(0);
  });

  test('ends with status 0 when it is told to', async () => {
    const server = it.run('rpc_server', [], { AMQP_URL: 'amqp://localhost:1' });
    await server.shows(/Cannot reach/);
    server.kill('SIGTERM');
    expect(await server.exit(1_000)).toBe(0);
  });
});
