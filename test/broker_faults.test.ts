import { createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { describe, expect, test } from 'vitest';
import { fib } from '../src/fib';
import { RpcClient } from '../src/rpc_client';
import { Command, until } from './processes';
import { suite } from './suite';

const it = suite();
const NUMBERS = ['1', '2', '3', '4', '5', '6', '7', '8'];
const LOST = /^ \[!\] Lost the connection to RabbitMQ at 127\.0\.0\.1:\d+: .*$/m;
const BACK = /^ \[!\] Connected to RabbitMQ at 127\.0\.0\.1:\d+\.$/m;

/** Two servers with work for some seconds in front of them, and a client that waits for all of it. */
async function atWork(...clientArgs: string[]) {
  const servers = [await it.server('--delay', '700'), await it.server('--delay', '700')];
  const client = it.client(...clientArgs, ...NUMBERS);
  await client.shows(/^ \[\.\] fib/m);
  return { servers, client };
}

async function expectAnswers(client: Command) {
  expect(await client.exit(30_000)).toBe(0);
  const answers = client.stdout.match(/^ \[\.\].*/gm)!.sort();
  expect(answers).toEqual(NUMBERS.map((n) => ` [.] fib(${n}) = ${fib(Number(n))}`));
}

async function expectServed(servers: number) {
  await until(`${servers} servers`, async () => {
    const queues = await it.broker.ctl('list_queues', '-p', it.vhost, 'name', 'consumers').catch(() => '');
    return queues.includes(`rpc_queue\t${servers}\n`);
  });
}

/** Each side says in one line that it lost the connection, and in one that it is back. */
async function expectOneLineEach(sides: Command[]) {
  for (const side of sides) {
    await side.shows(BACK);
    const count = (pattern: RegExp) => side.stderr.match(new RegExp(pattern, 'gm'))?.length ?? 0;
    expect([count(LOST), count(BACK)]).toEqual([1, 1]);
  }
}

describe('a broker that is killed and started again', () => {
  test('costs no call: both sides come back, and say so in a line each', async () => {
    const { servers, client } = await atWork();
    await it.broker.kill();
    for (const side of [...servers, client]) await side.shows(LOST);
    await it.broker.boot();
    await expectAnswers(client);
    await expectOneLineEach([...servers, client]);
    await expectServed(2);
  });

  test('rejects a call at its deadline while it is away, and takes it when it is back', async () => {
    await it.server();
    const client = await RpcClient.connect();
    await it.broker.kill();
    await expect(client.call(30, { timeout: 300 })).rejects.toThrow('no reply within 300 ms; when last seen, the connection to the broker is lost');
    const call = client.call(30);
    await it.broker.boot();
    expect(await call).toBe(832040n);
    await client.close();
  });

  test('while it is away a server that is told to stop is gone within a second', async () => {
    const server = await it.server();
    await it.broker.kill();
    await server.shows(LOST);
    server.kill('SIGTERM');
    expect(await server.exit(1_000)).toBe(0);
    await it.broker.boot();
  });
});

describe('stop_app and start_app', () => {
  test.each([['durable'], ['transient']])('cost no call, with a %s rpc_queue', async (kind) => {
    const { channel } = await it.peer();
    await channel.assertQueue('rpc_queue', { durable: kind === 'durable' });
    const { servers, client } = await atWork();
    await it.broker.ctl('stop_app');
    await it.broker.ctl('start_app');
    await expectAnswers(client);
    await expectServed(2);
    await expectOneLineEach([...servers, client]);
  });
});

test('a call that is back before the servers waits for them, though rpc_queue has vanished', async () => {
  const { channel } = await it.peer();
  await channel.assertQueue('rpc_queue', { durable: false });
  const client = it.client('30');
  await client.shows(/No reply/);
  await it.broker.ctl('stop_app');
  await it.broker.ctl('start_app');
  await client.shows(BACK);
  const peer = await it.peer();
  await until('no rpc_queue', () => peer.channel.checkQueue('rpc_queue').then(() => false, () => true));
  await it.server();
  expect(await client.exit()).toBe(0);
});

describe('close_all_connections', () => {
  test('costs no call', async () => {
    const { servers, client } = await atWork();
    await it.broker.ctl('close_all_connections', '--global', 'test');
    await expectAnswers(client);
    await expectOneLineEach([...servers, client]);
    await expectServed(2);
  });

  test('again and again, in the middle of set-ups too, leaves every server consuming and every call answered', async () => {
    const servers = [await it.server('--delay', '100'), await it.server('--delay', '100')];
    const client = it.client('10', '20'); // each set-up sends what is unanswered again: more would keep the servers busy
    await servers[0]!.shows(/fib/);
    // rabbitmqctl takes longer than a set-up: closed from inside the broker, they are hit at every stage of it.
    await it.broker.ctl('eval', `
      End = erlang:monotonic_time(millisecond) + 10000,
      Close = fun Close() ->
        [catch rabbit_networking:close_connection(Pid, "test") || Pid <- rabbit_networking:connections()],
        timer:sleep(7),
        case erlang:monotonic_time(millisecond) < End of true -> Close(); false -> ok end
      end,
      Close().`);
    await expectServed(2);
    expect(await client.exit()).toBe(0);
    expect(client.stdout.match(/= .*/g)!.sort()).toEqual(['= 55', '= 6765']);
  });
});

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
    await expectServed(1);
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
