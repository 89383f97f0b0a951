import { once } from 'node:events';
import { expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { Broker } from '../support/broker';
import { until } from '../support/processes';
import type { Proxy } from '../support/proxy';
import { BACK, LOST, Scene, built, expectOneLineEach, suite } from '../support/suite';

const it = suite(() => Broker.startForTests());
const NUMBERS = ['1', '2', '3', '4', '5', '6', '7', '8'];

/** Two servers, held with a request in the hands of each, and a client that waits for the answers. */
async function atWork(scene: Scene, durable: boolean) {
  await scene.queue({ durable });
  const servers = [await scene.server(), await scene.server()];
  for (const server of servers) server.kill('SIGSTOP');
  const client = scene.client('--timeout', '900000', ...NUMBERS);
  await scene.queueHas({ messageCount: NUMBERS.length - servers.length });
  return { scene, servers, client };
}

test.each([
  ['is killed and started again', () => it.broker.kill(), () => it.broker.boot()],
  ['is stopped and started', () => it.broker.ctl('stop_app'), () => it.broker.ctl('start_app')],
  ['closes all connections', () => it.broker.closeConnections(), () => {}],
])('a broker that %s costs no call: both sides come back, and say so in a line each', async (_, goAway, comeBack) => {
  const scenes = await Promise.all([atWork(it, true), atWork(await it.another(), false)]);
  const since = performance.now();
  const gone = goAway();
  for (const { servers, client } of scenes) {
    await client.shows(LOST);
    for (const server of servers) server.kill('SIGCONT');
    for (const server of servers) await server.shows(LOST);
  }
  await gone;
  await comeBack();
  for (const { scene, servers, client } of scenes) {
    expect(await client.exit()).toBe(0);
    const answers = client.stdout.match(/^ \[\.\].*/gm)!.sort();
    expect(answers).toEqual(NUMBERS.map((n) => ` [.] fib(${n}) = ${fib(Number(n))}`));
    for (const server of servers) await server.shows(BACK);
    for (const side of [...servers, client]) expectOneLineEach(side.stderr, performance.now() - since);
    await scene.queueHas({ consumerCount: servers.length });
  }
});

test('a broker that is away keeps no server that is told to stop, and no call beyond its deadline', async () => {
  const server = await it.server();
  const { client, log } = await it.rpcClient();
  await it.broker.ctl('stop_app');
  await server.shows(LOST);
  await until('the loss', () => LOST.test(log.join('\n')));
  const message = 'no reply within 300 ms; the connection to the broker is lost';
  await expect(client.call(30, { timeout: 300 })).rejects.toThrow(message);
  const early = [it.run('rpc_server'), it.run('rpc_server')] as const;
  const refused = /^ \[!\] Cannot reach RabbitMQ at 127\.0\.0\.1:\d+: connect ECONNREFUSED .*npm run broker/m;
  for (const side of early) await side.shows(refused);
  for (const side of [server, early[0]]) {
    side.kill('SIGTERM');
    expect(await side.exit()).toBe(0);
  }
  const call = client.call(30, { timeout: 600_000 });
  await it.broker.ctl('start_app');
  await early[1].shows(/Awaiting/);
  expect(await call).toBe(832040n);
});

/** Calls `meanwhile` while the broker is frozen, and thaws it. */
async function frozen(meanwhile: () => Promise<void>): Promise<void> {
  it.broker.node.kill('SIGSTOP');
  await meanwhile().finally(() => it.broker.node.kill('SIGCONT'));
}

/** Calls `meanwhile` while the broker blocks whoever publishes. */
async function blocking(meanwhile: () => Promise<void>): Promise<void> {
  await it.broker.ctl('set_vm_memory_high_watermark', '0');
  await meanwhile().finally(() => it.broker.ctl('set_vm_memory_high_watermark', '0.6'));
}

test('a broker that is frozen is noticed by both sides in three heartbeats, and works again when thawed', async () => {
  const server = await it.server('--delay', '1000000');
  const client = it.client('--timeout', '900000');
  await server.shows(/fib\(30\)/);
  const short = it.run('rpc_client', ['--timeout', '3000'], `${it.url}?heartbeat=60`);
  await short.shows(/Requesting/);
  await frozen(async () => {
    const sides = [server, client].map((side) => side.shows(LOST, { deadline: 60_000 })); // 3 x 5 s, not x 60
    // No call outlives its deadline, and no process its calls.
    await short.shows(/fib\(30\): no reply within 3000 ms/);
    expect(await short.exit()).toBe(1);
    await Promise.all(sides);
  });
  await client.shows(BACK);
  await server.shows(/fib\(30\)/, { times: 2 });
  server.kill('SIGKILL');
  await it.server();
  expect(await client.exit()).toBe(0);
});

test('a broker that blocks publishers is said to, calls end at their deadline, and work again afterwards', async () => {
  const server = await it.server();
  const { client, log } = await it.rpcClient();
  const held: Promise<bigint>[] = [];
  await blocking(async () => {
    held.push(client.call(30, { timeout: 600_000 })); // only who publishes is told
    const said = /RabbitMQ at 127\.0\.0\.1:\d+ is blocking publishers: low on memory/;
    await until('the block', () => said.test(log.join('\n')));
    const message = 'no reply within 300 ms; the broker is blocking publishers (low on memory)';
    await expect(client.call(7, { timeout: 300 })).rejects.toThrow(message);
    const late = /is blocking publishers: low on memory[^]*fib\(30\): no reply within 10000 ms/;
    const blocked = await it.client('--timeout', '10000').end();
    expect(blocked).toMatchObject({ status: 1, stderr: expect.stringMatching(late) });
  });
  expect(await Promise.all([...held, client.call(30, { timeout: 600_000 })])).toEqual([832040n, 832040n]);
  expect(log.join('\n')).toMatch(/is not blocking publishers any more/);
  expect(server.stdout).not.toContain('fib(7)'); // which nobody waited for any more
});

test('a request in hand while the broker blocks publishers is not sent again', async () => {
  const server = await it.server('--delay', '1000');
  const { client, log } = await it.rpcClient();
  const inHand = client.call(1, { timeout: 600_000 });
  await server.shows(/fib\(1\)/);
  const held: Promise<bigint>[] = [];
  await blocking(async () => {
    held.push(client.call(2, { timeout: 600_000 }));
    await until('the block', () => /is blocking/.test(log.join('\n')));
  });
  held.push(client.call(3, { timeout: 600_000 }));
  expect(await Promise.all([inHand, ...held])).toEqual([1n, 1n, 2n]);
  for (const n of [1, 2, 3]) expect(server.count(new RegExp(`fib\\(${n}\\)`))).toBe(1);
  expect(log.join('\n')).not.toMatch(/Lost/);
});

// A program that calls, closes when it is told to, and says on its way out how long that took, in milliseconds.
const PROGRAM = `require(process.argv[1]).RpcClient.connect().then((client) => {
  client.call(30, { timeout: 600_000 }).catch((error) => console.log(error.message));
  process.once('SIGUSR2', () => {
    const closing = performance.now();
    process.once('exit', () => console.log('ended after', performance.now() - closing));
    client.close();
  });
  console.log('connected');
});`;

/** Calls `fail` when such a program runs, and then expects it to end. */
async function expectEnd(fail: (end: () => Promise<void>, line: Proxy) => Promise<void>): Promise<void> {
  await it.queue();
  const line = await it.proxy();
  const program = it.command(process.execPath, ['-e', PROGRAM, built('src/rpc_client')], { AMQP_URL: line.url });
  await program.shows(/connected/);
  await fail(async () => {
    program.kill('SIGUSR2');
    expect(await program.exit()).toBe(0);
  }, line);
  const [, ms] = /^the client is closed\nended after (.*)$/m.exec(program.stdout)!;
  expect(Number(ms)).toBeLessThan(2_000);
}

test.each<[string, Parameters<typeof expectEnd>[0]]>([
  ['the broker answers', (end) => end()],
  ['the broker is frozen', (end) => frozen(end)],
  ['the broker blocks publishers', async (end) => {
    const { channel, connection } = await it.peer();
    await blocking(async () => {
      channel.sendToQueue('rpc_queue', Buffer.from('')); // only who publishes is told
      await once(connection, 'blocked');
      await end();
    });
  }],
  ['nothing reaches the broker', (end, line) => (line.hold('up'), end())],
  ['nothing comes from the broker', (end, line) => (line.hold('down'), end())],
])('a program that has closed its client ends by itself within two seconds while %s', (_, fail) => expectEnd(fail));
