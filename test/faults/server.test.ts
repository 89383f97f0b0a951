import { describe, expect, test } from 'vitest';
import { until } from '../support/processes';
import { suite } from '../support/suite';

const it = suite();

/** A server with a request in its hands, for as long as it is there, and the client that waits for the answer. */
async function inHand() {
  const server = await it.server('--delay', '2147483647');
  const client = it.client('30');
  await server.shows(/fib\(30\)/);
  return { server, client };
}

describe('a server that is killed in the middle of a request', () => {
  test('loses nothing: another server answers, once, and the client never notices', async () => {
    const { server, client } = await inHand();
    const other = await it.server();
    server.kill('SIGKILL');
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe(' [x] Requesting fib(30)\n [.] Got 832040\n');
    expect(client.stderr).not.toMatch(/Lost|Dropped|fail/);
    await other.shows(/fib\(30\)/);
    await it.queueHas({ messageCount: 0, consumerCount: 1 });
  });

  test('leaves the request to the next server that starts', async () => {
    const { server, client } = await inHand();
    server.kill('SIGKILL');
    await client.shows(/No reply for a second: rpc_queue has 0 servers and 1 waiting request/);
    await it.server();
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toContain(' [.] Got 832040\n');
  });
});

describe('a server that is told to stop', () => {
  test.each(['SIGINT', 'SIGTERM'] as const)('%s, while idle ends with status 0', async (signal) => {
    const server = await it.server();
    server.kill(signal);
    expect(await server.exit()).toBe(0);
  });

  test('in the middle of a request answers it, takes no other, and ends with status 0', async () => {
    const server = await it.server('--delay', '3000');
    const client = it.client('30', '31');
    await server.shows(/fib\(3.\)/);
    server.kill('SIGINT');
    server.kill('SIGTERM'); // which is no second time, so soon: npx may hand a Ctrl-C on twice
    await it.queueHas({ messageCount: 1, consumerCount: 0 });
    await client.shows(/^ \[\.\] fib/m);
    expect(await server.exit()).toBe(0);
    expect(server.stdout.match(/fib/g)).toHaveLength(1);
    await it.server();
    expect(await client.exit()).toBe(0);
  });
});

describe('a server that is told to stop', () => {
  test('a second time, during a long request, is gone at once, and another server answers', async () => {
    const { server, client } = await inHand();
    const start = Date.now();
    await until('exit', () => {
      server.kill('SIGTERM');
      return !server.running;
    });
    expect(await server.exit()).toBe(1);
    expect(Date.now() - start).toBeGreaterThanOrEqual(500); // sooner, it is still the first time
    await it.server();
    expect(await client.exit()).toBe(0);
  });

  test('and then loses its connection takes nothing more, is gone, and another server answers', async () => {
    const { server, client } = await inHand();
    server.kill('SIGTERM');
    await it.queueHas({ consumerCount: 0 });
    await it.broker.ctl('close_all_connections', '-p', it.vhost, 'test');
    expect(await server.exit()).toBe(0);
    expect(server.stdout.match(/Awaiting|fib/g)).toEqual(['Awaiting', 'fib']);
    expect(server.stderr).not.toMatch(/Refused|Cannot reply/);
    await it.server();
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toContain(' [.] Got 832040\n');
  });
});

describe('rpc_queue', () => {
  test('deleted under a server is served again', async () => {
    const server = await it.server();
    const { channel } = await it.peer();
    await channel.deleteQueue('rpc_queue');
    await server.shows(/Awaiting/, { count: 2 });
    await server.shows(/Lost the connection .*the broker cancelled the consumer/);
    expect(await it.client().exit()).toBe(0);
  });

  test('deleted with requests in it loses them: their calls end at their timeout', async () => {
    const server = await it.server('--delay', '1000000');
    const client = it.client('--timeout', '6000', '1', '2');
    await server.shows(/fib/);
    await it.queueHas({ messageCount: 1 });
    const { channel } = await it.peer();
    await channel.deleteQueue('rpc_queue');
    expect(await client.exit()).toBe(1);
    expect(client.stderr.match(/fib\(.\): no reply within 6000 ms/g)).toHaveLength(2);
  });
});

test('a request whose reply takes the connection down is gone after two times, and others are answered', async () => {
  const server = await it.server();
  const { channel } = await it.peer();
  for (let i = 0; i < 3; i++) {
    channel.sendToQueue('rpc_queue', Buffer.from('5'), { replyTo: 'amq.rabbitmq.reply-to.!!!.!!!' });
  }
  expect(await it.client('30').exit()).toBe(0);
  expect(server.stdout.match(/fib\(5\)/g)!.length).toBeLessThanOrEqual(6);
  await it.queueHas({ messageCount: 0, consumerCount: 1 });
});

describe('a client that leaves', () => {
  test('before its answer takes nobody down, and its expired requests are not computed', async () => {
    const server = await it.server('--delay', '1500');
    const client = it.client('--timeout', '1000', '1', '2', '3');
    await server.shows(/fib\(1\)/);
    expect(await client.exit()).toBe(1);
    expect(await it.client('4').exit()).toBe(0);
    expect(server.stdout.match(/fib\(.\)/g)).toEqual(['fib(1)', 'fib(4)']);

    const killed = it.client('5');
    await server.shows(/fib\(5\)/);
    killed.kill('SIGKILL');
    expect(await it.client('6').exit()).toBe(0);
    expect(server.stderr).toBe('');
  });
});
