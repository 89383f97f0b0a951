import type { ChannelModel } from 'amqplib';
import { expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { generator, until } from '../support/processes';
import { suite, take } from '../support/suite';

const it = suite();

const tildes = (n: number) => `<${'~'.repeat(n)}>`;
/** Sends what tildes() returns as bytes that are no UTF-8, which amqplib itself never does. */
function garble({ connection }: ChannelModel): void {
  const { stream } = connection as unknown as { stream: { write(bytes: Buffer): boolean } };
  const write = stream.write.bind(stream);
  const spoil = (text: string) => text.replace(/(?<=<)~{8,}(?=>)/g, (run) => '\xff'.repeat(run.length));
  const spoilt = (bytes: Buffer) => Buffer.from(spoil(bytes.toString('latin1')), 'latin1');
  stream.write = (bytes) => write(bytes.length > 4_096 ? bytes : spoilt(bytes));
}

/** Sends requests as a client of any other port would, and reads the replies. */
async function asker() {
  const { channel, connection } = await it.peer();
  const { queue } = await channel.assertQueue('', { exclusive: true });
  const ask = (body: string | Buffer, properties: object = {}) => {
    channel.sendToQueue('rpc_queue', Buffer.from(body), { replyTo: queue, correlationId: 'id', ...properties });
  };
  const reply = () => take(channel, queue);
  return { channel, connection, queue, ask, reply, answer: async () => (await reply()).content.toString() };
}

test('a request is answered on the queue it names, with its correlation id, as a result', async () => {
  const server = await it.server(); // which declares rpc_queue durable, and without a type
  const settings = { durable: true, type: 'classic', exclusive: false, auto_delete: false };
  expect(await it.queueDetails('rpc_queue')).toMatchObject(settings);
  const { ask, reply } = await asker();
  ask('30', { correlationId: 'a-1' });
  const { content, properties, fields } = await reply();
  expect(content.toString()).toBe('832040');
  expect(fields.exchange).toBe('');
  const given = Object.fromEntries(Object.entries(properties).filter(([, value]) => value !== undefined));
  expect(given).toEqual({ correlationId: 'a-1', type: 'result', contentType: 'text/plain', headers: {} });
  await server.shows(/fib/);
  expect(server.stdout + server.stderr).toBe(' [x] Awaiting RPC requests\n [.] fib(30)\n');
});

test('a request without reply_to is logged and not computed; one without an id is answered without one', async () => {
  const server = await it.server();
  const { ask, reply } = await asker();
  ask('30', { replyTo: undefined });
  ask('12', { correlationId: undefined });
  const { content, properties } = await reply();
  expect([content.toString(), properties.correlationId]).toEqual(['144', undefined]);
  await server.shows(/^ \[!\] .*fib\(30\) came without reply_to/m);
  await server.shows(/fib\(12\)$/m);
  expect(server.stdout).toBe(' [x] Awaiting RPC requests\n [.] fib(12)\n');
  server.kill('SIGKILL');
  await it.queueHas({ messageCount: 0, consumerCount: 0 });
});

const NONSENSE: [string, string][] = [
  ['abc', '"abc"'], ['', '""'], ['-1', '"-1"'], ['1000001', '"1000001"'], ['00000030', '"00000030"'],
  [' 30', '" 30"'], ['30\n', '"30\\\\n"'],
  ['\u001b]0;x\u0007\u009b31m\u202e\u007f', '"\\\\u001b]0;x\\\\u0007\\\\u{9b}31m\\\\u{202e}\\\\u{7f}"'],
  ['x'.repeat(1_000_000), `"${'x'.repeat(40)}…"`],
];

test('nonsense is refused with an error that names it, escaped, and takes nobody down', async () => {
  const server = await it.server();
  const { ask, reply, answer } = await asker();
  for (const [body, shown] of NONSENSE) {
    ask(body);
    const { content, properties } = await reply();
    expect(properties).toMatchObject({ type: 'error', correlationId: 'id', contentType: 'text/plain' });
    expect(content.toString()).toMatch(/^n must be a whole number from 0 to 1000000, in digits; got "/);
    expect(content.toString()).not.toMatch(/\n| at /);
    ask('7');
    expect(await answer()).toBe('13');
    await server.shows(new RegExp(`^ \\[!\\] Refused a request: .*got ${shown.replace(/[[{}]/g, '\\$&')}$`, 'm'));
  }
  expect(server.stderr.trimEnd().split('\n')).toHaveLength(NONSENSE.length);
});

test('a request whose properties cannot be sent back is acknowledged all the same', async () => {
  const server = await it.server();
  const { ask, answer, connection } = await asker();
  garble(connection);
  ask('5', { correlationId: tildes(200) }); // 600 bytes when it is written again, of 255 at most
  ask('8');
  expect(await answer()).toBe('21');
  await server.shows(/^ \[!\] Cannot reply: /m);
});

test.each([[1, []], [3, ['--prefetch', '3']]])('servers share requests, and hold %i each', async (each, options) => {
  const start = () => it.server('--delay', '1000000', ...options);
  const servers = [await start(), await start()];
  const { ask } = await asker();
  for (let n = 1; n <= 8; n++) ask(String(n));
  await it.queueHas({ messageCount: 8 - 2 * each });
  for (const server of servers) await server.shows(/fib/, { times: each });
  expect(servers.map((server) => server.count(/fib/))).toEqual([each, each]);
});

test.each([
  ['quorum', { durable: true, arguments: { 'x-queue-type': 'quorum' } }],
  ['limited', { durable: true, arguments: { 'x-max-length': 1_000, 'x-message-ttl': 60_000 } }],
])('rpc_queue is used as it is where it is %s', async (_, options) => {
  await it.queue(options);
  await it.server();
  const { ask, answer } = await asker();
  ask('30');
  expect(await answer()).toBe('832040');
});

const REQUESTS = 3_000;
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const random = generator(SEED);
const below = (n: number) => Math.floor(random() * n);
const pick = <T>(...values: T[]): T => values[below(values.length)]!;

const randomText = () => pick(undefined, '', 'x'.repeat(255), tildes(below(254)), `id ${below(1e9)}`);
/** 0 bytes to 100 kB. */
const randomBody = () => Buffer.alloc(10 ** (random() * 5) - 1, Uint8Array.from({ length: 64 }, () => below(256)));

// A value of each of AMQP's types that amqplib can write.
const typed = (type: string, value: unknown) => ({ '!': type, value });
const SCALARS = [
  ...[-128, 32_767, -(2 ** 31), -(2 ** 52), 2 ** 63, 0.5, true, null, 'text', tildes(99), Buffer.from('bytes')],
  ...['int8', 'int16', 'int32', 'int64', 'float', 'double'].map((type) => typed(type, -1)),
  ...[typed('uint8', 255), typed('uint16', 65_535), typed('uint32', 2 ** 32 - 1), typed('timestamp', 2 ** 31)],
  typed('decimal', { places: 2, digits: 314 }),
];
const HEADERS: unknown[] = [...SCALARS, SCALARS, { scalars: SCALARS, deeper: [{ deeper: [SCALARS] }] }];

test(`3,000 random requests take no server down, and the well-formed are answered (SEED=${SEED})`, async () => {
  const server = await it.server();
  const { channel, connection, queue } = await asker();
  const { call } = await it.rpcClient();
  const queues = (await it.queueDetails()) as { name: string }[];
  const another = queues.find(({ name }) => name.startsWith('amq.gen-') && name !== queue)!.name;
  garble(connection);
  const expected = new Map<string, string>(); // by correlation id
  await channel.consume(queue, (reply) => {
    const { correlationId, type } = reply!.properties;
    if (type === 'result' && reply!.content.toString() === expected.get(correlationId)) expected.delete(correlationId);
  }, { noAck: true });
  const send = (i: number) => {
    const n = below(2_000);
    const wellFormed = i % 4 === 0;
    if (wellFormed) expected.set(`request ${i}`, String(fib(n)));
    channel.sendToQueue('rpc_queue', wellFormed || random() < 0.2 ? Buffer.from(String(n)) : randomBody(), {
      type: randomText(), messageId: randomText(), appId: randomText(), contentType: randomText(),
      headers: { a: pick(...HEADERS), b: pick(...HEADERS) },
      correlationId: wellFormed ? `request ${i}` : pick(undefined, randomText()),
      replyTo: wellFormed ? queue : pick(undefined, '', 'rpc_queue', 'no such queue', another, queue, randomText()),
    } as object);
  };
  const waiting = async () => (await channel.checkQueue('rpc_queue')).messageCount;
  for (let sent = 0; sent < REQUESTS;) {
    // At most 200 messages at a time; each request may put its reply in rpc_queue, too.
    for (let room = 200 - (await waiting()); room > 0 && sent < REQUESTS; room -= 2) send(sent++);
    await until('room', async () => (await waiting()) < 100);
  }
  await until('all answers', () => expected.size === 0);
  expect(await call(30)).toBe(832040n); // of the client whose reply queue the others named
  expect(server.stderr.replaceAll('\n', '')).not.toMatch(/Lost|[\p{Cc}\p{Cf}]/u);
  const kilobytes = await it.command('ps', ['-o', 'rss=', '-p', String(server.child.pid)]).end();
  expect(Number(kilobytes.stdout)).toBeLessThan(300 * 1_024);
  server.kill('SIGKILL');
  await it.queueHas({ messageCount: 0, consumerCount: 0 }); // all acknowledged
});
