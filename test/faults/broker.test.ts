import { describe, expect, test } from 'vitest';
import { Broker } from '../support/broker';
import { Command } from '../support/processes';
import { BACK, LOST, NUMBERS, Scene, expectAnswers, scriptFile, suite } from '../support/suite';

const AWAITING = /^ \[x\] Awaiting RPC requests$/m;
let early: Command;

const it = suite(async () => {
  const broker = await Broker.prepare();
  const AMQP_URL = `amqp://guest:guest@localhost:${broker.port}`;
  early = new Command(process.execPath, [scriptFile('rpc_server')], { AMQP_URL });
  const refused = `Cannot reach RabbitMQ at localhost:${broker.port}: connect ECONNREFUSED .*npm run broker`;
  await early.shows(new RegExp(`^ \\[!\\] ${refused}`, 'm'));
  await broker.boot();
  return broker;
});

test('a server without a broker says where it looked and how to start one, and serves once there is one', async () => {
  await early.shows(AWAITING);
  const client = it.run('rpc_client', [], { AMQP_URL: it.broker.url('/') });
  expect(await client.exit()).toBe(0);
  early.kill('SIGKILL');
});

/** Two servers, held with a request in the hands of each, and a client that waits for the answers. */
async function atWork(scene: Scene, durable: boolean) {
  await scene.queue({ durable });
  const servers = [await scene.server(), await scene.server()];
  for (const server of servers) server.kill('SIGSTOP');
  const client = scene.client('--timeout', '120000', ...NUMBERS);
  await scene.queueHas({ messageCount: NUMBERS.length - servers.length });
  return { scene, servers, client };
}

/** Each side says in one line that it lost the connection, and in one that it is back. */
async function expectOneLineEach(sides: Command[]) {
  for (const side of sides) {
    await side.shows(BACK);
    const count = (pattern: RegExp) => side.stderr.match(new RegExp(pattern, 'gm'))?.length ?? 0;
    expect([count(LOST), count(BACK)]).toEqual([1, 1]);
  }
}

describe.each([
  ['is killed and started again', () => it.broker.kill(), () => it.broker.boot()],
  ['is stopped and started', () => it.broker.ctl('stop_app'), () => it.broker.ctl('start_app')],
  ['closes all connections', () => it.broker.ctl('close_all_connections', '--global', 'test'), () => {}],
])('a broker that %s', (_, goAway, comeBack) => {
  test('costs no call: both sides come back, and say so in a line each', async () => {
    const scenes = await Promise.all([atWork(it, true), atWork(await it.another(), false)]);
    const away = goAway();
    for (const { servers, client } of scenes) {
      await client.shows(LOST);
      for (const server of servers) server.kill('SIGCONT');
      for (const server of servers) await server.shows(LOST);
    }
    await away;
    await comeBack();
    for (const { scene, servers, client } of scenes) {
      await expectAnswers(client);
      await expectOneLineEach([...servers, client]);
      await scene.queueHas({ consumerCount: servers.length });
    }
  });
});

describe('a broker that is away', () => {
  test('keeps no server that is told to stop, and no call beyond its deadline; a later call is answered', async () => {
    const servers = [await it.server(), await it.server()] as const;
    const client = await it.rpcClient();
    await it.broker.ctl('stop_app');
    for (const server of servers) await server.shows(LOST);
    const message = 'no reply within 300 ms; when last seen, the connection to the broker is lost';
    await expect(client.call(30, { timeout: 300 })).rejects.toThrow(message);
    servers[0].kill('SIGTERM');
    expect(await servers[0].exit()).toBe(0);
    const call = client.call(30);
    await it.broker.ctl('start_app');
    expect(await call).toBe(832040n);
  });

  test('keeps a server that never reached it no longer than it is told to', async () => {
    const server = it.run('rpc_server', [], { AMQP_URL: 'amqp://localhost:1' });
    await server.shows(/Cannot reach/);
    server.kill('SIGTERM');
    expect(await server.exit()).toBe(0);
  });
});

test('a call that is back before the servers waits for them, though rpc_queue has vanished', async () => {
  await it.queue({ durable: false });
  const client = it.client('30');
  await client.shows(/No reply/);
  await it.broker.ctl('stop_app');
  await it.broker.ctl('start_app');
  await client.shows(BACK);
  await it.queueHas(null);
  await it.server();
  expect(await client.exit()).toBe(0);
});

describe('connections that are closed', () => {
  test('again and again, amid set-ups too, leaves every server consuming and every call answered', async () => {
    const servers = [await it.server('--delay', '100'), await it.server('--delay', '100')];
    const client = it.client('10', '20'); // each set-up sends them again: more would keep the servers busy
    await servers[0]!.shows(/fib/);
    // rabbitmqctl takes longer than a set-up: closed from inside the broker, they are hit at every stage of it.
    await it.broker.ctl('eval', `
      End = erlang:monotonic_time(millisecond) + 3000,
      Close = fun Close() ->
        [catch rabbit_networking:close_connection(Pid, "test") || Pid <- rabbit_networking:connections()],
        timer:sleep(7),
        case erlang:monotonic_time(millisecond) < End of true -> Close(); false -> ok end
      end,
      Close().`);
    await it.queueHas({ consumerCount: 2 });
    expect(await client.exit()).toBe(0);
    expect(client.stdout.match(/= .*/g)!.sort()).toEqual(['= 55', '= 6765']);
  });
});
