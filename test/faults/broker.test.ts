import { describe, expect, test } from 'vitest';
import { RpcClient } from '../../src/rpc_client';
import { Command, until } from '../support/processes';
import { BACK, LOST, NUMBERS, expectAnswers, expectServed, suite } from '../support/suite';

const it = suite();

/** Two servers with work for some seconds in front of them, and a client that waits for all of it. */
async function atWork(...clientArgs: string[]) {
  const servers = [await it.server('--delay', '700'), await it.server('--delay', '700')];
  const client = it.client(...clientArgs, ...NUMBERS);
  await client.shows(/^ \[\.\] fib/m);
  return { servers, client };
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
    await expectServed(it, 2);
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
    await expectServed(it, 2);
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
    await expectServed(it, 2);
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
    await expectServed(it, 2);
    expect(await client.exit()).toBe(0);
    expect(client.stdout.match(/= .*/g)!.sort()).toEqual(['= 55', '= 6765']);
  });
});
