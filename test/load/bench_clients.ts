// The benchmark's part `clients`: how many clients in one process share four servers, and what each of them costs.
import { type ChannelModel, connect } from 'amqplib';
import type { Broker } from '../support/broker';
import { connectClients, digits, measure, median, quantile, ratio, spread, startServers, stop } from './measure';
import { heapInUse, rss, shuffled, table } from './shared';

const ROUNDS = 5;
const SIZES = [1, 10, 100, 1_000]; // clients
const TEN = SIZES.indexOf(10);

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
