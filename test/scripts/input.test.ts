import { execFileSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { RpcClient } from '../../src/rpc_client';
import { generator, until } from '../support/processes';
import { garble, suite } from '../support/suite';

const it = suite();

describe('10,000 random requests', () => {
  test('take no server down, fill no memory, and each that is well formed is answered', async () => {
    const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);
    console.log(`SEED=${seed}`);
    const random = generator(seed);
    const below = (n: number) => Math.floor(random() * n);
    const pick = <T>(...values: T[]): T => values[below(values.length)]!;

    const server = await it.server();
    const { channel, connection } = await it.peer();
    garble(connection);
    const { queue } = await channel.assertQueue('', { exclusive: true });
    const other = await RpcClient.connect();
    const others = (await it.broker.ctl('list_queues', '-p', it.vhost, 'name')).match(/amq\.gen-\S+/g)!;
    const another = others.find((name) => name !== queue)!;

    const expected = new Map<string, bigint>();
    let wrong = 0;
    await channel.consume(queue, (reply) => {
      const { correlationId, type } = reply!.properties;
      const value = expected.get(correlationId);
      if (value === undefined) return; // to a request that was not well formed
      if (type !== 'result' || reply!.content.toString() !== String(value)) wrong++;
      expected.delete(correlationId);
    }, { noAck: true });

    const bytes = () => {
      const body = Buffer.alloc(Math.floor(10 ** (random() * 6)) - (random() < 0.02 ? 1 : 0)); // 0 bytes to 1 MB
      for (let i = 0; i < Math.min(body.length, 64); i++) body[i] = below(256);
      return body;
    };
    const text = () => pick(undefined, '', 'x'.repeat(255), `<${'~'.repeat(below(254))}>`, `id ${below(1e9)}`);
    const header = (depth = 0): unknown => pick<() => unknown>(
      () => below(256) - 128, () => below(2 ** 16) - 2 ** 15, () => below(2 ** 32) - 2 ** 31, () => -(2 ** 52), () => 2 ** 63,
      () => random(), () => random() < 0.5, () => null, () => text() ?? 'x', () => Buffer.from('bytes'),
      () => ({ '!': 'uint8', value: 255 }), () => ({ '!': 'uint16', value: 65_535 }), () => ({ '!': 'uint32', value: 2 ** 32 - 1 }),
      () => ({ '!': 'int8', value: -1 }), () => ({ '!': 'int16', value: -1 }), () => ({ '!': 'int32', value: -1 }),
      () => ({ '!': 'int64', value: -1 }), () => ({ '!': 'float', value: 0.5 }), () => ({ '!': 'double', value: 0.1 }),
      () => ({ '!': 'timestamp', value: below(2 ** 31) }), () => ({ '!': 'decimal', value: { places: 2, digits: 314 } }),
      () => (depth > 2 ? [] : [header(depth + 1), header(depth + 1)]), () => (depth > 2 ? {} : { nested: header(depth + 1) }),
    )();

    let sent = 0;
    let wellFormed = 0;
    while (sent < 10_000) {
      const { messageCount } = await channel.checkQueue('rpc_queue');
      for (let room = 200 - messageCount; room > 0 && sent < 10_000; room -= 2, sent++) { // a reply may land there too
        const properties = { type: text(), messageId: text(), appId: text(), contentType: text(), headers: { a: header(), b: header() } };
        if (random() < 0.25) {
          const n = below(1_000);
          const correlationId = `${sent}`;
          expected.set(correlationId, fib(n));
          wellFormed++;
          channel.sendToQueue('rpc_queue', Buffer.from(String(n)), { ...properties, correlationId, replyTo: queue } as object);
        } else {
          const body = random() < 0.2 ? Buffer.from(String(below(2_000))) : bytes();
          const replyTo = pick(undefined, '', 'rpc_queue', 'no such queue', another, queue, text());
          channel.sendToQueue('rpc_queue', body, { ...properties, correlationId: pick(undefined, text()), replyTo } as object);
        }
      }
      await until('room', async () => (await channel.checkQueue('rpc_queue')).messageCount < 100);
    }
    expect(wellFormed).toBeGreaterThan(2_000);
    await until('all answers', () => expected.size === 0);
    expect(wrong).toBe(0);
    await until('an empty queue', async () => /^rpc_queue\t0$/m.test(await it.broker.ctl('list_queues', '-p', it.vhost, 'name', 'messages')));
    expect(server.running).toBe(true);
    expect(server.stderr).not.toMatch(/Lost/);
    expect(server.stderr.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}]/u);
    const megabytes = Number(execFileSync('ps', ['-o', 'rss=', '-p', String(server.child.pid)])) / 1024;
    expect(megabytes).toBeLessThan(300);
    expect(await other.call(30)).toBe(832040n); // the one whose reply queue the others named
    await other.close();
  }, 120_000);
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
      channel.sendToQueue(replyTo, Buffer.from(nasty), { correlationId, type: request!.content.toString() === '1' ? 'error' : 'result' });
    }, { noAck: true });
    const client = it.client('1', '2');
    expect(await client.exit()).toBe(1);
    for (const output of [server.stderr, client.stderr]) {
      expect(output).toContain('owned');
      expect(output.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}]/u);
    }
  });
});
