import type { Channel } from 'amqplib';
import { describe, expect, test } from 'vitest';
import { until } from '../support/processes';
import { suite } from '../support/suite';

const it = suite();

/** Consumes rpc_queue, and never answers. */
async function silentServer(): Promise<() => Promise<unknown>> {
  const { channel }: { channel: Channel } = await it.peer();
  const { consumerTag } = await channel.consume('rpc_queue', () => {}, { noAck: true });
  return () => channel.cancel(consumerTag);
}

describe('that there is no reply for a second', () => {
  test('is said a second after the call, and not before, however busy the program was', async () => {
    await it.queue();
    let saidAt = 0;
    const client = await it.rpcClient({ log: () => (saidAt ||= performance.now()) });
    const busyUntil = performance.now() + 500;
    while (performance.now() < busyUntil); // a timer that is started now counts from before
    const calledAt = performance.now();
    client.call(30).catch(() => {});
    await until('the line', () => saidAt);
    expect(saidAt - calledAt).toBeGreaterThanOrEqual(1_000);
  });

  test('is said once for as many servers, and again when there are more, or fewer', async () => {
    await it.queue();
    const stop = [await silentServer(), await silentServer()];
    const log: string[] = [];
    const client = await it.rpcClient({ log: (line) => log.push(line) });
    client.call(30).catch(() => {});
    await until('two servers', () => log.length === 1);
    await stop.pop()!();
    await until('one server', () => log.length === 2);
    await stop.pop()!();
    await until('no server', () => log.length === 3);
    expect(log.map((line) => /^No reply for a second: rpc_queue has (\d) server/.exec(line)?.[1])).toEqual(['2', '1', '0']);
  });

  test('is said of a batch whose servers vanish half-way', async () => {
    const server = await it.server('--delay', '300');
    const client = it.client('1', '2', '3', '4');
    await client.shows(/^ \[\.\] fib/m);
    server.kill('SIGKILL');
    await client.shows(/No reply for a second: rpc_queue has 0 servers/);
    await it.server();
    expect(await client.exit()).toBe(0);
  });
});
