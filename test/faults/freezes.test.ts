import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { describe, expect, test } from 'vitest';
import { RpcClient } from '../../src/rpc_client';
import { LOST, NUMBERS, expectAnswers, expectServed, suite } from '../support/suite';

const it = suite();

describe('a broker that is frozen', () => {
  test('is noticed by both sides within three heartbeats, and works again when it is thawed', async () => {
    const server = await it.server('--delay', '100');
    const client = it.client('--timeout', '60000', ...NUMBERS);
    await client.shows(/^ \[\.\] fib/m);
    it.broker.signal('SIGSTOP');
    try {
      await Promise.all([server, client].map((side) => side.shows(LOST, { deadline: 15_500 }))); // 3 x 5 s
    } finally {
      it.broker.signal('SIGCONT');
    }
    await expectAnswers(client);
    await expectServed(it, 1);
  });

  test('is noticed sooner where the URL asks for other heartbeats', async () => {
    const server = it.run('rpc_server', [], { AMQP_URL: `${it.url}?heartbeat=1` });
    await server.shows(/Awaiting/);
    it.broker.signal('SIGSTOP');
    try {
      await server.shows(LOST, { deadline: 3_500 });
    } finally {
      it.broker.signal('SIGCONT');
    }
    await server.shows(/Awaiting/, { count: 2 });
  });

  test('makes no call outlive its deadline, and no process its calls', async () => {
    await it.server('--delay', '1000000');
    const client = it.client('--timeout', '1500');
    await client.shows(/Requesting/);
    it.broker.signal('SIGSTOP');
    try {
      await client.shows(/fib\(30\): no reply within 1500 ms/, { deadline: 2_500 });
      expect(await client.exit(2_000)).toBe(1);
    } finally {
      it.broker.signal('SIGCONT');
    }
  });
});

describe('a broker that blocks publishers', () => {
  test('is said to, with its reason; calls end at their deadline, and work again when it is over', async () => {
    await it.server();
    const log: string[] = [];
    const client = await RpcClient.connect({ log: (line) => log.push(line) });
    await it.broker.ctl('set_vm_memory_high_watermark', '0');
    try {
      await expect(client.call(30, { timeout: 1_000 })).rejects.toThrow('no reply within 1000 ms; when last seen, the broker is blocking publishers (low on memory)');
      expect(log.join('\n')).toMatch(/RabbitMQ at 127\.0\.0\.1:\d+ is blocking publishers: low on memory/);

      const script = it.client('--timeout', '1500');
      await script.shows(/Requesting/);
      await script.shows(/is blocking publishers: low on memory/);
      await script.shows(/fib\(30\): no reply within 1500 ms/, { deadline: 2_500 });
      expect(await script.exit(2_000)).toBe(1);
    } finally {
      await it.broker.ctl('set_vm_memory_high_watermark', '0.6');
    }
    expect(await client.call(30)).toBe(832040n);
    expect(log.join('\n')).toMatch(/is not blocking publishers any more/);
    await client.close();
  });
});

describe('a port that accepts connections and says nothing', () => {
  test('is an error within 10 s, and sooner where the timeout is shorter', async () => {
    const silent = createServer(() => {}).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const AMQP_URL = `amqp://127.0.0.1:${(silent.address() as AddressInfo).port}`;
    const [server, client, hurried] = [
      it.run('rpc_server', [], { AMQP_URL }),
      it.run('rpc_client', [], { AMQP_URL }),
      it.run('rpc_client', ['--timeout', '500'], { AMQP_URL }),
    ];
    expect(await hurried.exit(2_500)).toBe(1);
    expect(hurried.stderr).toMatch(/has not answered within 500 ms/);
    expect(await client.exit(10_000)).toBe(1);
    expect(client.stderr).toMatch(/Cannot reach RabbitMQ at 127\.0\.0\.1:\d+: connect ETIMEDOUT/);
    await server.shows(/Cannot reach RabbitMQ at 127\.0\.0\.1:\d+: connect ETIMEDOUT/, { deadline: 10_000 });
    silent.close();
  });
});
