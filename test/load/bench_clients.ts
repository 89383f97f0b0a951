// The benchmark's parts that many clients share: `clients`, how many in one process get on with four servers, and what
// each costs; `return`, how they get on when a broker is killed, is away for five seconds and comes back with calls
// pending. There the clients are a process of their own: this file, run with their number.
import { type ChannelModel, connect } from 'amqplib';
import { Socket, createConnection } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import type { Broker } from '../support/broker';
import { Command, until } from '../support/processes';
import { connectClients, digits, measure, median, quantile, ratio, spread, startServers, stop } from './measure';
import { heapInUse, rss, shuffled, table } from './shared';

const ROUNDS = 5;
const SIZES = [1, 10, 100, 1_000]; // clients
const TEN = SIZES.indexOf(10);
const RETURNS = 3;
const RETURNING = [10, 100, 1_000]; // clients

/** Counts the channels that are opened in this process from now on. */
async function countChannels(url: string): Promise<{ opened: number }> {
  const connection = await connect(url);
  const prototype: ChannelModel = Object.getPrototypeOf(connection);
  const { createChannel } = prototype;
  const count = { opened: 0 };
  prototype.createChannel = function (this: ChannelModel) {
    count.opened++;
    return createChannel.call(this);
  };
  await connection.close();
  return count;
}

export async function benchClients(broker: Broker): Promise<string> {
  const servers = await startServers(broker.url(), 4);
  const channels = await countChannels(broker.url());
  const rows = SIZES.map((size) => ({
    size, rates: [] as number[], medians: [] as number[], slow: [] as number[], memory: [0, 0], opened: 0,
  }));
  for (let round = 1; round <= ROUNDS; round++) {
    console.error(`clients: round ${round} of ${ROUNDS}`);
    for (const row of round === 1 ? rows : shuffled(rows, Math.random)) { // first the fewest: what is used stays used
      const memory = async () => [heapInUse(), await rss(broker.node)] as const;
      const before = await memory();
      const clients = await connectClients(broker.url(), row.size);
      const opened = channels.opened;
      const { rate, times } = await measure((i) => clients[i]!.call(30), row.size, 1);
      row.opened += channels.opened - opened;
      row.rates.push(rate);
      row.medians.push(median(times));
      row.slow.push(quantile(times, 0.99));
      const after = await memory();
      if (round === 1) row.memory = after.map((bytes, i) => (bytes - before[i]!) / row.size / 1_000);
      await Promise.all(clients.map((client) => client.close()));
    }
  }
  await stop(servers);
  const head = ['clients', 'calls/s', 'of those of 10', 'median ms', '99th percentile ms',
    'kB of heap for each client', "kB of the broker's for each", 'channels opened meanwhile'];
  return table(head, rows.map(({ size, rates, medians, slow, memory, opened }) => {
    const each = memory.map((kB) => (size < 100 ? 'too few to tell' : digits(kB)));
    return [size, spread(rates), ratio(rates, rows[TEN]!.rates), digits(median(medians)), digits(median(slow)),
      ...each, opened || 'none'];
  }));
}

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

/** Returns the seconds from the opening of the port until all are answered, the connections tried, the calls failed. */
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
  const rows = RETURNING.map((size) => ({ size, outcomes: [] as [number, number, number][] }));
  for (let round = 1; round <= RETURNS; round++) {
    for (const { size, outcomes } of shuffled(rows, Math.random)) {
      console.error(`return: round ${round} of ${RETURNS}, ${size} clients`);
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
