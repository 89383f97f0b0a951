import { describe, expect, test } from 'vitest';
import { RpcClient } from '../../src/rpc_client';
import { until } from '../support/processes';
import { suite } from '../support/suite';

const it = suite();

/** The queue as the broker sees it, waited for. */
async function queueHas(state: { messageCount?: number; consumerCount?: number }) {
  const { channel } = await it.peer();
  await until(JSON.stringify(state), async () => {
    const queue = await channel.checkQueue('rpc_queue');
    return Object.entries(state).every(([key, value]) => queue[key as keyof typeof queue] === value);
  });
}

describe('a server that is killed in the middle of a request', () => {
  test('loses nothing: another server answers, once, and the client never notices', async () => {
    const victim = await it.server('--delay', '1000000');
    const client = it.client('30');
    await victim.shows(/fib\(30\)/);
    const other = await it.server();
    victim.kill('SIGKILL');
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe(' [x] Requesting fib(30)\n [.] Got 832040\n');
    expect(client.stderr).not.toMatch(/Lost|Dropped|fail/);
    await other.shows(/fib\(30\)/);
    await queueHas({ messageCount: 0, consumerCount: 1 });
  });

  test('leaves the request to the next server that starts', async () => {
    const victim = await it.server('--delay', '1000000');
    const client = it.client('30');
    await victim.shows(/fib\(30\)/);
    victim.kill('SIGKILL');
    await client.shows(/No reply for a second: rpc_queue has 0 servers and 1 waiting request/);
    await it.server();
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toContain(' [.] Got 832040\n');
  });
});

describe('a server that is told to stop', () => {
  test('in the middle of a request answers it, takes no other, and ends with status 0', async () => {
    const server = await it.server('--delay', '1000');
    const client = it.client('30', '31');
    await server.shows(/fib\(3.\)/);
    server.kill('SIGTERM');
    await until('a queue without servers', async () => /\t0$/m.test(await it.broker.ctl('list_queues', '-p', it.vhost, 'name', 'consumers')));
    await client.shows(/^ \[\.\] fib/m);
    expect(await server.exit(2_000)).toBe(0);
    expect(server.stdout.match(/fib/g)).toHaveLength(1);
    await it.server();
    expect(await client.exit()).toBe(0);
  });

  test('while idle is gone within a second', async () => {
    const server = await it.server();
    server.kill('SIGTERM');
    expect(await server.exit(1_000)).toBe(0);
  });

  test('a second time, during a long request, is gone at once, and another server answers', async () => {
    const server = await it.server('--delay', '1000000');
    const client = it.client('30');
    await server.shows(/fib\(30\)/);
    await until('exit', () => !server.running || (server.kill('SIGTERM'), false), 1_000); // after half a second
    expect(await server.exit()).toBe(1);
    await it.server();
    expect(await client.exit()).toBe(0);
  });

  test('and then loses its connection takes nothing more, is gone within a second, and another server answers', async () => {
    const server = await it.server('--delay', '1000000');
    const client = it.client('30');
    await server.shows(/fib\(30\)/);
    server.kill('SIGTERM');
    await queueHas({ consumerCount: 0 });
    await it.broker.ctl('close_all_connections', '-p', it.vhost, 'test');
    expect(await server.exit(1_000)).toBe(0);
    expect(server.stdout.match(/Awaiting|fib/g)).toEqual(['Awaiting', 'fib']);
    expect(server.stderr).not.toMatch(/Refused|Cannot reply/);
    await it.server();
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toContain(' [.] Got 832040\n');
  });
});

describe('rpc_queue', () => {
  test('deleted under a server is served again within two seconds', async () => {
    const server = await it.server();
    const { channel } = await it.peer();
    await channel.deleteQueue('rpc_queue');
    await server.shows(/Awaiting/, { count: 2, deadline: 2_000 });
    await server.shows(/Lost the connection .*the broker cancelled the consumer/);
    const client = it.client();
    expect(await client.exit()).toBe(0);
  });

  test('deleted with requests in it loses them: their calls end at their timeout', async () => {
    const server = await it.server('--delay', '1000000');
    const client = it.client('--timeout', '2000', '1', '2');
    await server.shows(/fib/);
    const { channel } = await it.peer();
    await channel.deleteQueue('rpc_queue');
    expect(await client.exit(5_000)).toBe(1);
    expect(client.stderr.match(/fib\(.\): no reply within 2000 ms/g)).toHaveLength(2);
  });
});

describe('a request whose reply takes the connection down', () => {
  test('is gone when it has done so twice, and the others are answered', async () => {
    const server = await it.server();
    const { channel } = await it.peer();
    for (let i = 0; i < 3; i++) channel.sendToQueue('rpc_queue', Buffer.from('5'), { replyTo: 'amq.rabbitmq.reply-to.!!!.!!!' });
    const client = it.client('30');
    expect(await client.exit()).toBe(0);
    expect(server.stdout.match(/fib\(5\)/g)!.length).toBeLessThanOrEqual(6);
    await queueHas({ messageCount: 0, consumerCount: 1 });
  });
});

describe('the reply queue', () => {
  test('deleted under a waiting client: the call is answered all the same', async () => {
    await it.server('--delay', '1000');
    const client = await RpcClient.connect();
    const call = client.call(30);
    await queueHas({ messageCount: 0 });
    const queues = await it.broker.ctl('list_queues', '-p', it.vhost, 'name');
    const queue = /amq\.gen-\S+/.exec(queues)![0];
    await it.broker.ctl('eval', `{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"${it.vhost}">>, queue, <<"${queue}">>)),
      rabbit_amqqueue:delete(Q, false, false, <<"test">>).`);
    expect(await call).toBe(832040n);
    await client.close();
  });
});

describe('a client that leaves', () => {
  test('before its answer takes nobody down, and its expired requests are not computed', async () => {
    const server = await it.server('--delay', '700');
    const client = it.client('--timeout', '600', '1', '2', '3');
    await server.shows(/fib\(1\)/);
    expect(await client.exit(5_000)).toBe(1);
    const next = it.client('4');
    expect(await next.exit()).toBe(0);
    expect(server.stdout.match(/fib\(.\)/g)).toEqual(['fib(1)', 'fib(4)']);

    const killed = it.client('5');
    await server.shows(/fib\(5\)/);
    killed.kill('SIGKILL');
    const last = it.client('6');
    expect(await last.exit()).toBe(0);
    expect(server.stderr).toBe('');
  });
});
