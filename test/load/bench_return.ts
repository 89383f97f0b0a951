// The benchmark's part `return`: clients with calls pending, and a broker that is killed, is away for five seconds and
// comes back. The clients are a process of their own: this file, run with their number.
import { Socket, createConnection } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import type { Broker } from '../support/broker';
import { Command, until } from '../support/processes';
import { connectClients, spread, startServers, stop } from './measure';
import { shuffled, table } from './shared';

const ROUNDS = 3;
const SIZES = [10, 100, 1_000]; // clients

interface Outcome { answeredAt: number; tried: number; failed: number } // time of day in ms; connections; calls

/** Connects the clients, each of which calls until SIGUSR2: then its last call is pending. */
async function callUntilToldToStop(size: number): Promise<void> {
  const outcome: Outcome = { answeredAt: 0, tried: 0, failed: 0 };
  let told = false;
  process.on('SIGUSR2', () => (told = true));
  const clients = await connectClients(process.env.AMQP_URL!, size);
  const { connect } = Socket.prototype;
  Socket.prototype.connect = function (this: Socket, ...args: [never]) {
    outcome.tried++;
    return connect.apply(this, args);
  };
  console.log('connected');
  await Promise.all(clients.map(async (client) => {
    do await client.call(30, { timeout: 120_000 }).catch(() => outcome.failed++); while (!told);
  }));
  outcome.answeredAt = Date.now();
  process.stdout.write(JSON.stringify(outcome), () => process.exit());
}

const isOpen = (port: number) => new Promise<boolean>((resolve) => {
  const socket = createConnection(port, '127.0.0.1', () => (socket.destroy(), resolve(true)));
  socket.on('error', () => resolve(false));
});

/** Returns the seconds from the opening of the broker's port until all are answered, connections tried, calls failed. */
async function comeBack(broker: Broker, size: number): Promise<[number, number, number]> {
  const args = ['-r', 'ts-node/register', __filename, String(size)];
  const clients = new Command('node', args, { ...process.env, AMQP_URL: broker.url() });
  await clients.shows(/connected/, { deadline: 120_000 });
  await broker.kill();
  clients.kill('SIGUSR2');
  await pause(5_000);
  const booted = broker.boot();
  await until('the port', () => isOpen(broker.details.port), 120_000);
  const openedAt = Date.now();
  await booted;
  await clients.exit(150_000);
  const { answeredAt, tried, failed }: Outcome = JSON.parse(clients.stdout.replace('connected', ''));
  return [(answeredAt - openedAt) / 1_000, tried, failed];
}

export async function benchReturn(broker: Broker): Promise<string> {
  const servers = await startServers(broker.url(), 4);
  const rows = SIZES.map((size) => ({ size, outcomes: [] as [number, number, number][] }));
  for (let round = 1; round <= ROUNDS; round++) {
    for (const { size, outcomes } of shuffled(rows, Math.random)) {
      console.error(`return: round ${round} of ${ROUNDS}, ${size} clients`);
      outcomes.push(await comeBack(broker, size));
    }
  }
  await stop(servers);
  const head = ['clients', "seconds from the port's opening to the last answer", 'connections tried', 'calls failed'];
  return table(head, rows.map(({ size, outcomes }) => {
    const failed = outcomes.reduce((sum, outcome) => sum + outcome[2], 0);
    return [size, ...[0, 1].map((i) => spread(outcomes.map((outcome) => outcome[i]!))), failed || 'none'];
  }));
}

if (require.main === module) void callUntilToldToStop(Number(process.argv[2]));
