import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { describe, expect, test } from 'vitest';
import { Broker } from '../support/broker';
import { BACK, LOST, suite } from '../support/suite';

const it = suite(() => Broker.start());

/** Calls `meanwhile` while the broker is frozen, and thaws it. */
async function frozen(meanwhile: () => Promise<void>): Promise<void> {
  it.broker.signal('SIGSTOP');
  try {
    await meanwhile();
  } finally {
    it.broker.signal('SIGCONT');
  }
}

describe('a broker that is frozen', () => {
  test('is noticed by both sides within three heartbeats, and works again when it is thawed', async () => {
    const server = await it.server('--delay', '1000000');
    const client = it.client('--timeout', '120000');
    await server.shows(/fib\(30\)/);
    const other = await it.another();
    const hasty = other.run('rpc_server', ['--delay', '1000000'], { AMQP_URL: `${other.url}?heartbeat=1` });
    await hasty.shows(/Awaiting/);
    const short = other.run('rpc_client', ['--timeout', '3000'], { AMQP_URL: `${other.url}?heartbeat=60` });
    await short.shows(/Requesting/);

    await frozen(async () => {
      const sides = [server, client].map((side) => side.shows(LOST, { deadline: 20_000 })); // 3 x 5 s, and some
      // With a heartbeat of a second it is noticed sooner than one of 5 s could tell.
      await hasty.shows(LOST, { deadline: 7_000 });
      // No call outlives its deadline, and no process its calls.
      await short.shows(/fib\(30\): no reply within 3000 ms/);
      expect(await short.exit()).toBe(1);
      await Promise.all(sides);
    });

    await hasty.shows(/Awaiting/, { count: 2 });
    await client.shows(BACK);
    await server.shows(/fib\(30\)/, { count: 2 });
    server.kill('SIGKILL');
    await it.server();
    expect(await client.exit()).toBe(0);
  });
});

describe('a broker that blocks publishers', () => {
  test('is said to, with its reason; calls end at their deadline, and work again when it is over', async () => {
    await it.server();
    const log: string[] = [];
    const client = await it.rpcClient({ log: (line) => log.push(line) });
    await it.broker.ctl('set_vm_memory_high_watermark', '0');
    try {
      const message = 'no reply within 1000 ms; when last seen, the broker is blocking publishers (low on memory)';
      await expect(client.call(30, { timeout: 1_000 })).rejects.toThrow(message);
      expect(log.join('\n')).toMatch(/RabbitMQ at 127\.0\.0\.1:\d+ is blocking publishers: low on memory/);

      const script = it.client('--timeout', '3000');
      await script.shows(/is blocking publishers: low on memory/);
      await script.shows(/fib\(30\): no reply within 3000 ms/);
      expect(await script.exit()).toBe(1);
    } finally {
      await it.broker.ctl('set_vm_memory_high_watermark', '0.6');
    }
    expect(await client.call(30)).toBe(832040n);
    expect(log.join('\n')).toMatch(/is not blocking publishers any more/);
  });
});

describe('a port that accepts connections and says nothing', () => {
  test('is an error, and sooner where the timeout is shorter', async () => {
    const silent = createServer(() => {}).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const AMQP_URL = `amqp://127.0.0.1:${(silent.address() as AddressInfo).port}`;
    const server = it.run('rpc_server', [], { AMQP_URL });
    const client = it.run('rpc_client', ['--timeout', '600000'], { AMQP_URL });
    const hurried = it.run('rpc_client', ['--timeout', '500'], { AMQP_URL });
    expect(await hurried.exit()).toBe(1);
    expect(hurried.stderr).toMatch(/has not answered within 500 ms/);
    expect(await client.exit()).toBe(1);
    expect(client.stderr).toMatch(/Cannot reach RabbitMQ at 127\.0\.0\.1:\d+: connect ETIMEDOUT/);
    await server.shows(/Cannot reach RabbitMQ at 127\.0\.0\.1:\d+: connect ETIMEDOUT/);
    silent.close();
  });
});
