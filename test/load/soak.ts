// npm run soak -- [--calls N] [--seed S]: calls without end, while servers and the broker are killed and come back.
import { parseArgs } from 'node:util';
import { setTimeout as pause } from 'node:timers/promises';
import { fib } from '../../src/fib';
import { RpcClient } from '../../src/rpc_client';
import { Broker } from '../support/broker';
import { Command, generator, runScript, table } from '../support/processes';

const SERVERS = 4;
const CLIENTS = 2;
const IN_FLIGHT = 16; // for each client
const MAX_N = 2_000;

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { calls: { type: 'string', default: '20000' }, seed: { type: 'string' } } });
  const calls = Number(values.calls);
  const seed = Number(values.seed ?? Date.now() % 2 ** 31);
  if (!Number.isInteger(calls) || calls < 1 || !Number.isInteger(seed)) {
    throw new Error('Usage: npm run soak -- [--calls N] [--seed S], both whole numbers');
  }
  console.error(`soak: ${calls} calls, --seed ${seed}`);
  const random = generator(seed);

  const broker = await Broker.start();
  process.env.AMQP_URL = broker.url();
  // A server holds each request for 5 ms, so that a kill finds one in its hands.
  const startServer = () => new Command('node_modules/.bin/ts-node', ['src/rpc_server.ts', '--delay', '5']);
  const servers = Array.from({ length: SERVERS }, startServer);
  await Promise.all(servers.map((server) => server.shows(/Awaiting/)));

  const count = { right: 0, wrong: 0, dropped: 0, serverKills: 0, brokerRestarts: 0, longest: 0 };
  const failures = new Map<string, number>();
  let left = calls;
  let done = false;

  const keepCalling = async (client: RpcClient): Promise<void> => {
    while (left-- > 0) {
      const n = Math.floor(random() * MAX_N);
      const start = performance.now();
      try {
        if ((await client.call(n)) === fib(n)) count.right++;
        else count.wrong++;
      } catch (error) {
        const reason = (error as Error).message;
        failures.set(reason, (failures.get(reason) ?? 0) + 1);
      }
      count.longest = Math.max(count.longest, performance.now() - start);
    }
  };
  const keepKillingServers = async (): Promise<void> => {
    for (;;) {
      await pause(1_000 + random() * 1_000);
      if (done) return;
      const victim = Math.floor(random() * SERVERS);
      servers[victim]!.kill('SIGKILL');
      servers[victim] = startServer();
      count.serverKills++;
    }
  };
  const keepKillingTheBroker = async (): Promise<void> => {
    for (;;) {
      await pause(20_000);
      if (done) return;
      await broker.kill();
      await broker.boot();
      count.brokerRestarts++;
    }
  };
  const status = () => `${count.right + count.wrong} calls done, ${count.serverKills} servers killed, ${count.brokerRestarts} broker restarts`;
  const progress = setInterval(() => process.stderr.isTTY && process.stderr.write(`\r${status()} `), 200);

  const log = (line: string) => line.startsWith('Dropped') && count.dropped++;
  const clients = await Promise.all(Array.from({ length: CLIENTS }, () => RpcClient.connect({ log })));
  const killing = [keepKillingServers(), keepKillingTheBroker()];
  const calling = clients.flatMap((client) => Array.from({ length: IN_FLIGHT }, () => keepCalling(client)));
  await Promise.race([Promise.all(calling), Promise.all(killing)]); // killing ends early only by failing
  done = true;
  clearInterval(progress);
  if (process.stderr.isTTY) console.error(`\r${status()}`);
  await Promise.all(clients.map((client) => client.close()));

  const failed = [...failures.values()].reduce((sum, n) => sum + n, 0);
  console.log(table(['', ''], [
    ['calls', calls],
    ['answered right', count.right],
    ['answered wrong', count.wrong],
    ['failed', failed],
    ...[...failures].map(([reason, n]) => [`failed: ${reason}`, n] as [string, number]),
    ['duplicates dropped', count.dropped],
    ['server kills', count.serverKills],
    ['broker restarts', count.brokerRestarts],
    ['longest call', `${Math.round(count.longest)} ms`],
  ]));
  return count.right === calls && count.wrong === 0 && failed === 0 ? 0 : 1;
}

void runScript(main);
