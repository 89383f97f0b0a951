import type { Channel } from 'amqplib';
import { execFileSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { generator, until, type Command } from '../support/processes';
import { garble, suite } from '../support/suite';

const it = suite();
const REQUESTS = 10_000;
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const random = generator(SEED);
const below = (n: number) => Math.floor(random() * n);
const pick = <T>(...values: T[]): T => values[below(values.length)]!;

function randomBody(): Buffer {
  const body = Buffer.alloc(Math.floor(10 ** (random() * 6)) - (random() < 0.02 ? 1 : 0)); // 0 bytes to 1 MB
  for (let i = 0; i < Math.min(body.length, 64); i++) body[i] = below(256);
  return body;
}

function randomText(): string | undefined {
  return pick(undefined, '', 'x'.repeat(255), `<${'~'.repeat(below(254))}>`, `id ${below(1e9)}`);
}

/** A value of any of AMQP's types that amqplib can write. */
function randomHeader(depth = 0): unknown {
  const deeper = () => (depth > 2 ? null : randomHeader(depth + 1));
  return pick<() => unknown>(
    () => below(256) - 128, () => below(2 ** 16) - 2 ** 15, () => below(2 ** 32) - 2 ** 31, () => -(2 ** 52),
    () => 2 ** 63, () => random(), () => random() < 0.5, () => null, () => randomText() ?? 'x',
    () => Buffer.from('bytes'), () => ({ '!': 'float', value: 0.5 }), () => ({ '!': 'double', value: 0.1 }),
    () => ({ '!': pick('int8', 'int16', 'int32', 'int64'), value: -1 }), () => ({ '!': 'uint8', value: 255 }),
    () => ({ '!': 'uint16', value: 65_535 }), () => ({ '!': 'uint32', value: 2 ** 32 - 1 }),
    () => ({ '!': 'timestamp', value: below(2 ** 31) }), () => ({ '!': 'decimal', value: { places: 2, digits: 314 } }),
    () => [deeper(), deeper()], () => ({ nested: deeper() }),
  )();
}

/** A client that counts as wrong what is not the answer to a well-formed request of its own. */
async function strictClient(channel: Channel) {
  const { queue } = await channel.assertQueue('', { exclusive: true });
  const expected = new Map<string, string>();
  const count = { wellFormed: 0, wrong: 0 };
  await channel.consume(queue, (reply) => {
    const { correlationId, type } = reply!.properties;
    const value = expected.get(correlationId);
    if (value === undefined) return; // to a request that was not well formed
    if (type !== 'result' || reply!.content.toString() !== value) count.wrong++;
    expected.delete(correlationId);
  }, { noAck: true });
  const ask = (properties: object) => {
    const n = below(1_000);
    const correlationId = String(count.wellFormed++);
    expected.set(correlationId, String(fib(n)));
    channel.sendToQueue('rpc_queue', Buffer.from(String(n)), { ...properties, correlationId, replyTo: queue });
  };
  return { queue, expected, count, ask };
}

/** Calls `send` so many times, with at most 200 messages in rpc_queue. */
async function sendAll(channel: Channel, count: number, send: () => void): Promise<void> {
  for (let sent = 0; sent < count;) {
    const { messageCount } = await channel.checkQueue('rpc_queue');
    // Each request may put its reply there, too.
    for (let room = 200 - messageCount; room > 0 && sent < count; room -= 2, sent++) send();
    await until('room', async () => (await channel.checkQueue('rpc_queue')).messageCount < 100);
  }
}

function expectCalm(server: Command): void {
  expect(server.running).toBe(true);
  expect(server.stderr).not.toMatch(/Lost/);
  expect(server.stderr.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}]/u);
  const megabytes = Number(execFileSync('ps', ['-o', 'rss=', '-p', String(server.child.pid)])) / 1024;
  expect(megabytes).toBeLessThan(300);
}

describe(`10,000 random requests (SEED=${SEED})`, () => {
  test('take no server down, fill no memory, and each that is well formed is answered', async () => {
    const server = await it.server();
    const { channel, connection } = await it.peer();
    const client = await strictClient(channel);
    const other = await it.rpcClient();
    const queues = (await it.broker.api('GET', `queues/${encodeURIComponent(it.vhost)}`)) as { name: string }[];
    const another = queues.map(({ name }) => name).find((name) => name.startsWith('amq.gen') && name !== client.queue);
    garble(connection);

    await sendAll(channel, REQUESTS, () => {
      const headers = { a: randomHeader(), b: randomHeader() };
      const [type, messageId, appId, contentType] = [randomText(), randomText(), randomText(), randomText()];
      const properties = { type, messageId, appId, contentType, headers };
      if (random() < 0.25) return client.ask(properties);
      const body = random() < 0.2 ? Buffer.from(String(below(2_000))) : randomBody();
      const replyTo = pick(undefined, '', 'rpc_queue', 'no such queue', another, client.queue, randomText());
      const correlationId = pick(undefined, randomText());
      channel.sendToQueue('rpc_queue', body, { ...properties, correlationId, replyTo } as object);
    });
    await until('all answers', () => client.expected.size === 0);
    expect(client.count.wellFormed).toBeGreaterThan(REQUESTS / 5);
    expect(client.count.wrong).toBe(0);
    expectCalm(server);
    expect(await other.call(30)).toBe(832040n); // the one whose reply queue the others named
    server.kill('SIGKILL');
    await it.queueHas({ messageCount: 0, consumerCount: 0 }); // all acknowledged
  });
});

describe('control characters', () => {
  test('in a request or in an error reply reach no terminal', async () => {
    const nasty = '\u001b]0;owned\u0007\u009b31m\r\u202e\u007f';
    const server = await it.server();
    const { channel } = await it.peer();
    channel.sendToQueue('rpc_queue', Buffer.from(nasty));
    await server.shows(/Refused a request/);
    server.kill('SIGTERM');
    await server.exit();
    await channel.consume('rpc_queue', (request) => {
      const { replyTo, correlationId } = request!.properties;
      const type = request!.content.toString() === '1' ? 'error' : 'result';
      channel.sendToQueue(replyTo, Buffer.from(nasty), { correlationId, type });
    }, { noAck: true });
    const client = it.client('1', '2');
    expect(await client.exit()).toBe(1);
    for (const output of [server.stderr, client.stderr]) {
      expect(output).toContain('owned');
      expect(output.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}]/u);
    }
  });
});
