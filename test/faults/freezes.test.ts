import { describe, expect, test } from 'vitest';
import { Broker } from '../support/broker';
import type { Command } from '../support/processes';
import { Proxy } from '../support/proxy';
import { BACK, LOST, scriptFile, suite } from '../support/suite';

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

// A program that calls, closes when it is told to, and says on its way out how long that took, in milliseconds.
const PROGRAM = `
const { RpcClient } = require(process.argv[1]);
RpcClient.connect().then((client) => {
  client.call(30).catch((error) => console.log(error.message));
  process.once('SIGUSR2', () => {
    const closing = performance.now();
    process.once('exit', () => console.log('ended after', performance.now() - closing));
    client.close();
  });
  console.log('connected');
});`;

describe('a program that has closed its client ends by itself within two seconds', () => {
  async function program(AMQP_URL = it.url): Promise<Command> {
    await it.queue();
    const running = it.command(process.execPath, ['-e', PROGRAM, scriptFile('rpc_client')], { AMQP_URL });
    await running.shows(/connected/);
    return running;
  }

  async function expectEnd(running: Command): Promise<void> {
    running.kill('SIGUSR2');
    expect(await running.exit()).toBe(0);
    const [, ms] = /^the client is closed\nended after (.*)$/m.exec(running.stdout)!;
    expect(Number(ms)).toBeLessThan(2_000);
  }

  test('while the broker answers', async () => {
    await expectEnd(await program());
  });

  test('while the broker is frozen', async () => {
    const running = await program();
    await frozen(() => expectEnd(running));
  });

  test('while the broker blocks publishers', async () => {
    const running = await program();
    const { channel, connection } = await it.peer();
    const blocked = new Promise((resolve) => connection.once('blocked', resolve));
    await it.broker.ctl('set_vm_memory_high_watermark', '0');
    channel.sendToQueue('rpc_queue', Buffer.from('')); // only who publishes is told
    await blocked;
    await expectEnd(running).finally(() => it.broker.ctl('set_vm_memory_high_watermark', '0.6'));
  });

  test.each(['up', 'down'] as const)('while the line is half open (%s)', async (direction) => {
    const proxy = await Proxy.start(it.url);
    const running = await program(proxy.url);
    proxy.hold(direction);
    await expectEnd(running);
    await proxy.end();
  });
});
