import { expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { Broker } from '../support/broker';
import { BACK, LOST, Scene, built, expectOneLineEach, suite } from '../support/suite';

const it = suite(() => Broker.startForTests());
const NUMBERS = ['1', '2', '3', '4', '5', '6', '7', '8'];

/** A server that is held with a request in its hands, and a client that waits for the answers. */
async function atWork(scene: Scene, durable: boolean) {
  await scene.queue({ durable });
  const server = await scene.server();
  server.kill('SIGSTOP');
  const client = scene.client(...NUMBERS);
  await scene.queueHas({ messageCount: NUMBERS.length - 1 });
  return { scene, server, client };
}

test.each([
  ['is killed and started again', () => it.broker.kill(), () => it.broker.boot()],
  ['is stopped and started', () => it.broker.ctl('stop_app'), () => it.broker.ctl('start_app')],
  ['closes all connections', () => it.broker.ctl('close_all_connections', '--global', 'test'), () => {}],
])('a broker that %s costs no call: both sides come back, and say so in a line each', async (_, goAway, comeBack) => {
  const scenes = await Promise.all([atWork(it, true), atWork(await it.another(), false)]);
  const since = performance.now();
  const gone = goAway();
  for (const { server, client } of scenes) {
    await client.shows(LOST);
    server.kill('SIGCONT');
    await server.shows(LOST);
  }
  await gone;
  await comeBack();
  for (const { scene, server, client } of scenes) {
    expect(await client.exit()).toBe(0);
    const answers = client.stdout.match(/^ \[\.\].*/gm)!.sort();
    expect(answers).toEqual(NUMBERS.map((n) => ` [.] fib(${n}) = ${fib(Number(n))}`));
    await server.shows(BACK);
    for (const side of [server, client]) expectOneLineEach(side.stderr, performance.now() - since);
    await scene.queueHas({ consumerCount: 1 });
  }
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

/** Starts such a program where there is no server. Its `end` expects it to end by itself within two seconds. */
async function programAtWork(scene: Scene) {
  await scene.queue();
  const line = await scene.proxy();
  const program = scene.command(process.execPath, ['-e', PROGRAM, built('src/rpc_client')], { AMQP_URL: line.url });
  await program.shows(/connected/);
  const end = async () => {
    program.kill('SIGUSR2');
    expect(await program.exit()).toBe(0);
    const [, ms] = /^the client is closed\nended after (.*)$/m.exec(program.stdout)!;
    expect(Number(ms)).toBeLessThan(2_000);
  };
  return { line, end };
}

test.each(['up', 'down'] as const)('a program whose client is closed ends, its line half open (%s)', async (held) => {
  const { line, end } = await programAtWork(it);
  line.hold(held);
  await end();
});

test('a broker that is frozen is noticed by both sides in three heartbeats, and works again when thawed', async () => {
  const server = await it.server('--delay', '1000000');
  const client = it.client();
  await server.shows(/fib\(30\)/);
  const program = await programAtWork(await it.another());
  const short = it.run('rpc_client', ['--timeout', '3000'], `${it.url}?heartbeat=60`);
  await short.shows(/Requesting/);
  it.broker.node.kill('SIGSTOP');
  const sides = [server, client].map((side) => side.shows(LOST, { deadline: 60_000 })); // 3 x 5 s, not x 60
  await program.end();
  await short.shows(/fib\(30\): no reply within 3000 ms/); // no call outlives its deadline, and no process its calls
  expect(await short.exit()).toBe(1);
  await Promise.all(sides);
  it.broker.node.kill('SIGCONT');
  await client.shows(BACK);
  await server.shows(/fib\(30\)/, { times: 2 });
  server.kill('SIGKILL');
  await it.server();
  expect(await client.exit()).toBe(0);
});

test('a broker that blocks publishers is said to, calls end at their deadline, and none is sent twice', async () => {
  const server = await it.server('--delay', '1000');
  const { call, log, says } = await it.rpcClient();
  const calls = [call(1)];
  await server.shows(/fib\(1\)/);
  const program = await programAtWork(await it.another());
  await it.broker.ctl('set_vm_memory_high_watermark', '0');
  calls.push(call(2)); // only who publishes is told
  await says(/RabbitMQ at 127\.0\.0\.1:\d+ is blocking publishers: low on memory/);
  const message = 'no reply within 300 ms; the broker is blocking publishers (low on memory)';
  await expect(call(7, 300)).rejects.toThrow(message);
  const late = /is blocking publishers: low on memory[^]*fib\(30\): no reply within 5000 ms/;
  const blocked = await it.client('--timeout', '5000').end();
  expect(blocked).toMatchObject({ status: 1, stderr: expect.stringMatching(late) });
  await program.end();
  await it.broker.ctl('set_vm_memory_high_watermark', '0.6');
  calls.push(call(3));
  expect(await Promise.all(calls)).toEqual([1n, 1n, 2n]);
  await says(/is not blocking publishers any more/);
  expect(log.join('\n')).not.toMatch(/Lost/);
  for (const n of [1, 2, 3]) expect(server.count(new RegExp(`fib\\(${n}\\)`))).toBe(1);
  expect(server.stdout).not.toContain('fib(7)'); // which nobody waited for any more
});
