import { setTimeout as pause } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { until } from '../support/processes';
import { Proxy, type Faults } from '../support/proxy';
import { BACK, LOST, suite } from '../support/suite';

const it = suite();
const proxies: Proxy[] = [];

async function proxy(faults: Faults = {}, url = it.url): Promise<Proxy> {
  const line = await Proxy.start(url);
  line.faults = faults;
  proxies.push(line);
  return line;
}

afterEach(() => Promise.all(proxies.splice(0).map((line) => line.end())));

const count = (text: string, pattern: RegExp) => text.match(new RegExp(pattern, 'gm'))?.length ?? 0;

describe('a line that is cut after every 25th byte of the set-up, in both directions,', () => {
  /** A fault for every 25th of the bytes that went through this proxy, in either direction. */
  const cuts = ({ forwarded }: Proxy): Faults[] => (['up', 'down'] as const).flatMap((direction) =>
    Array.from({ length: Math.ceil(forwarded[direction] / 25) }, (_, i) => ({ cutAfter: { bytes: 25 * i, direction } })));

  test('comes back for a client, and its call is answered', async () => {
    await it.server();
    const probe = await proxy();
    await it.rpcClient({ url: probe.url });
    const all = cuts(probe);
    expect(all.length).toBeGreaterThan(40);
    await Promise.all(all.map(async (cut) => {
      const through = await proxy();
      const client = await it.rpcClient({ url: through.url });
      through.next = [cut];
      through.cut();
      expect(await client.call(30)).toBe(832040n);
      expect(through.accepted).toBeGreaterThan(2);
    }));
  });

  test('comes back for a server, and it consumes', async () => {
    const SERVERS = 8;
    const probe = await proxy();
    const first = it.run('rpc_server', [], { AMQP_URL: probe.url });
    await first.shows(/Awaiting/);
    const all = cuts(probe);
    expect(all.length).toBeGreaterThan(40);
    await Promise.all(Array.from({ length: SERVERS }, async (_, i) => {
      const through = await proxy();
      through.next = all.filter((__, j) => j % SERVERS === i);
      const server = it.run('rpc_server', [], { AMQP_URL: through.url });
      await until('a line without cuts', () => through.next.length === 0);
      await server.shows(/Awaiting/);
    }));
    await it.queueHas({ consumerCount: SERVERS + 1 });
  });
});

test('a line that is half open, in either direction, is noticed by server and client', async () => {
  await Promise.all((['up', 'down'] as const).map(async (direction) => {
    const scene = await it.another();
    const lines = [await proxy({}, `${scene.url}?heartbeat=1`), await proxy({}, `${scene.url}?heartbeat=1`)] as const;
    const server = scene.run('rpc_server', [], { AMQP_URL: lines[0].url });
    await server.shows(/Awaiting/);
    const log: string[] = [];
    const client = await scene.rpcClient({ url: lines[1].url, log: (line) => log.push(` [!] ${line}`) });
    for (const line of lines) line.hold(direction);
    const call = client.call(30);
    await server.shows(/Awaiting/, { count: 2 });
    expect(await call).toBe(832040n);
    for (const output of [server.stderr, log.join('\n')]) expect([count(output, LOST), count(output, BACK)]).toEqual([1, 1]);
  }));
});

test('a line that is cut after each set-up is tried once a second in the long run, and told of in two lines', async () => {
  const line = await proxy();
  const server = it.run('rpc_server', [], { AMQP_URL: line.url });
  await server.shows(/Awaiting/);
  const begin = performance.now();
  for (let setUps = 0; performance.now() - begin < 15_000;) {
    const now = count(server.stdout, /Awaiting/);
    if (now > setUps) line.cut();
    setUps = now;
    await pause(20);
  }
  expect(line.accepted).toBeLessThanOrEqual(15);
  expect([count(server.stderr, LOST), count(server.stderr, BACK)]).toEqual([1, 1]);
  expect(await it.client().exit()).toBe(0);
});

test('a handshake that drips a byte each 200 ms, or never comes, is given up, by a server too', async () => {
  const late = /^ \[!\] Cannot reach RabbitMQ at 127\.0\.0\.1:\d+: connect ETIMEDOUT/m;
  await Promise.all([{ drip: 200 }, { silent: true }].map(async (faults) => {
    const line = await proxy(faults);
    const [client, hasty, server] = [
      it.run('rpc_client', ['--timeout', '600000'], { AMQP_URL: line.url }),
      it.run('rpc_client', ['--timeout', '500'], { AMQP_URL: line.url }),
      it.run('rpc_server', [], { AMQP_URL: line.url }),
    ];
    expect(await hasty.exit()).toBe(1);
    expect(hasty.stderr).toMatch(/has not answered within 500 ms/);
    expect(await client.exit()).toBe(1);
    expect(client.stderr).toMatch(late);
    await server.shows(late);
    line.faults = {};
    await server.shows(/Awaiting/);
  }));
});

test('a handshake that is late and slow succeeds', async () => {
  const line = await proxy({ delay: 50 });
  await it.run('rpc_server', [], { AMQP_URL: line.url }).shows(/Awaiting/);
  const client = it.run('rpc_client', [], { AMQP_URL: line.url });
  expect(await client.exit()).toBe(0);
  expect(client.stderr).toBe('');
});

test('a port that accepts and closes is an error for a client, and a server waits for better', async () => {
  const line = await proxy({ closing: true });
  const server = it.run('rpc_server', [], { AMQP_URL: line.url });
  await server.shows(/Cannot reach RabbitMQ/);
  expect(await it.run('rpc_client', [], { AMQP_URL: line.url }).exit()).toBe(1);
  line.faults = {};
  await server.shows(/Awaiting/);
});
