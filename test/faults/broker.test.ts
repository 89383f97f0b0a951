import { expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { Broker } from '../support/broker';
import { until } from '../support/processes';
import { BACK, LOST, Scene, expectOneLineEach, suite } from '../support/suite';

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
  const away = goAway();
  for (const { servers, client } of scenes) {
    await client.shows(LOST);
    for (const server of servers) server.kill('SIGCONT');
    for (const server of servers) await server.shows(LOST);
  }
  await away;
  await comeBack();
  for (const { scene, servers, client } of scenes) {
    expect(await client.exit()).toBe(0);
    const answers = client.stdout.match(/^ \[\.\].*/gm)!.sort();
    expect(answers).toEqual(NUMBERS.map((n) => ` [.] fib(${n}) = ${fib(Number(n))}`));
    for (const server of servers) await server.shows(BACK);
    for (const side of [...servers, client]) expectOneLineEach(side.stderr);
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
