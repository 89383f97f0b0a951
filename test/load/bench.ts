// npm run bench -- [PART ...]: what a call costs, and how that grows. What is compared is measured side by side in one
// run, and told as ratios.
import { connect, type ChannelModel } from 'amqplib';
import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe } from 'node:diagnostics_channel';
import type { Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { fib, readResult, writeResult } from '../../src/fib';
import { Broker } from '../support/broker';
import { runScript } from '../support/processes';
import { plainClient } from './plain';
import {
  Calls, addVhost, connectClients, digits, endAll, measure, median, memoryWith, page, ratio, rounds, spread,
  startServers, table, total, type Call, type Row,
} from './shared';

type Program = [name: string, start: (url: string) => Promise<Call>, mostInFlight?: number, queueType?: 'quorum'];

const port = (servers: number, ...args: string[]) => async (url: string): Promise<Call> => {
  await startServers(url, servers, args);
  const [client] = await connectClients(url, 1);
  return () => client!.call(30);
};
const plain = (prefetch: number, noDelay = true) => async (url: string): Promise<Call> => {
  await startServers(url, 1, [String(prefetch), String(noDelay)], 'test/load/plain.ts');
  return plainClient(url, noDelay);
};
const PROGRAMS: Program[] = [
  ['this port', port(1)],
  ["the tutorial's programs", plain(1)],
  ['this port, prefetch 64', port(1, '--prefetch', '64')],
  ["the tutorial's, prefetch 64", plain(64)],
  ["the broker's limit", plain(0)],
  ['this port, quorum queue', port(1), 64, 'quorum'],
  ['this port, prefetch 64, quorum queue', port(1, '--prefetch', '64'), 64, 'quorum'],
  ["the tutorial's, Nagle's algorithm on", plain(1, false), 1],
];
const BESIDE = 5; // programs that all are held against: the first ones

/** The ms that `work` takes, as the mean of all that fit into 20 ms. */
function timeOf(work: () => unknown): number {
  const start = performance.now();
  let [times, now] = [0, start];
  for (; now < start + 20; now = performance.now(), times++) work();
  return (now - start) / times;
}

const PARTS: Record<string, (broker: Broker) => Promise<string>> = {
  /** What a call costs beside plain amqplib. */
  async calls(broker) {
    const programs = await Promise.all(PROGRAMS.map(async ([name, start, most = Infinity, queueType]) => {
      return { name, most, call: await start(await addVhost(broker, name, queueType)) };
    }));
    const rows: Row[] = [];
    for (const [inFlight, times, seconds] of [[1, 22, 0.25], [64, 22, 0.25], [512, 11, 0.5]] as const) {
      const some = programs.filter(({ most }) => inFlight <= most);
      rows.push(...(await rounds(`calls, ${inFlight} in flight`, times, some,
        ({ call }) => measure(call, inFlight, seconds),
        ([rates, ms], { name }, all) => [inFlight, name, spread(rates), digits(median(ms)),
          ...all.slice(0, BESIDE).map(([others]) => ratio(rates, others))])));
    }
    const beside = programs.slice(0, BESIDE).map(({ name }) => `of ${name}`);
    return table(['in flight', '', 'calls/s', 'median ms', ...beside], rows);
  },

  /** How servers scale, with work that waits, and with hardly any. */
  async servers(broker) {
    const tables: string[] = [];
    for (const delay of ['20', '0']) {
      const cases = await Promise.all([1, 2, 4, 8, 16].map(async (size) => { // started once: each takes a second or so
        const url = await addVhost(broker, `${size} servers, --delay ${delay}`);
        return { size, call: await port(size, '--delay', delay)(url) };
      }));
      const rows = await rounds(`servers, --delay ${delay}`, 3, cases, ({ call }) => measure(call, 64, 1),
        ([rates], { size }, [one]) => [size, spread(rates), ratio(rates.map((rate) => rate / size), one![0])]);
      tables.push(table(['servers', `calls/s, 64 in flight, --delay ${delay}`, 'efficiency'], rows));
      await endAll();
    }
    return tables.join('\n\n');
  },

  /** How many clients in one process get on with four servers, and what each costs. */
  async clients(broker) {
    await startServers(broker.url(), 4);
    let channels = 0; // opened in this process
    const prototype: ChannelModel = Object.getPrototypeOf((await connect(broker.url())).on('error', () => {}));
    const { createChannel } = prototype;
    prototype.createChannel = function () {
      channels++;
      return createChannel.call(this);
    };
    const rows = await rounds('clients', 5, [1, 10, 100, 1_000], async (size) => {
      const before = memoryWith(broker.node);
      const clients = await connectClients(broker.url(), size);
      channels = 0;
      const calls = await measure((i) => clients[i]!.call(30), size, 1);
      const opened = channels;
      const [heap, brokers] = memoryWith(broker.node).map((MB, i) => (MB - before[i]!) * 1_000 / size);
      return [...calls, heap!, brokers!, opened];
    }, ([rates, medians, slow, heap, brokers, opened], size, [, ten]) => {
      const times = [medians, slow].map((ms) => digits(median(ms)));
      const each = [heap, brokers].map(([first]) => (size < 100 ? 'too few to tell' : digits(first!)));
      return [digits(size), spread(rates), ratio(rates, ten![0]), ...times, ...each, total(opened)];
    }, 'in order'); // the fewest first: memory that the broker has used once it keeps
    return table(['clients', 'calls/s', 'of those of 10', 'median ms', '99th percentile ms',
      'kB of heap for each client', "kB of the broker's for each", 'channels opened meanwhile'], rows);
  },

  /** How a call grows with n, and what of it is the function, and what the two conversions. */
  async fib(broker) {
    await startServers(broker.url(), 1);
    const [client] = await connectClients(broker.url(), 1);
    const rows = await rounds('fib', 5, [1, 30, 1_000, 10_000, 100_000, 1_000_000], async (n) => {
      const [value, body] = [fib(n), writeResult(fib(n))];
      const [, call] = await measure(() => client!.call(n), 1);
      return [call, timeOf(() => fib(n)), timeOf(() => writeResult(value)), timeOf(() => readResult(body))];
    }, (measured, n) => {
      const [call, own, write, read] = measured.map(median) as [number, number, number, number];
      return [n.toLocaleString('en'), ...[call, own, write, read, (write + read) / own].map(digits)];
    });
    return table(['n', 'ms for a call', 'of that the function', 'digits from the number', 'the number from digits',
      'these two, of the function'], rows);
  },

  /** How clients get on when a broker is killed, is away for five seconds and comes back with calls pending. */
  async return(broker) {
    await startServers(broker.url(), 4);
    const own = new AsyncLocalStorage<true>(); // true where the clients connect, not where boot() looks for the broker
    let [tried, openedAt] = [0, 0];
    subscribe('net.client.socket', (event) => {
      if (own.getStore()) tried++;
      (event as { socket: Socket }).socket.once('connect', () => (openedAt ||= performance.now()));
    });
    const rows = await rounds('return', 3, [10, 100, 1_000], async (size) => {
      const clients = await own.run(true, () => connectClients(broker.url(), size));
      const calls = new Calls(clients, 1, 120_000);
      [tried, openedAt] = [0, 0];
      await broker.kill();
      const answered = calls.end().then(() => performance.now());
      await pause(5_000);
      await broker.boot();
      return [((await answered) - openedAt) / 1_000, tried, calls.outcomes.failed!];
    }, ([seconds, tries, failed], size) => [digits(size), spread(seconds), spread(tries), total(failed)]);
    const head = ['clients', "seconds from the port's opening to the last answer", 'connections tried', 'calls failed'];
    return table(head, rows);
  },
};

async function main(): Promise<number> {
  const names = process.argv.slice(2);
  const unknown = names.find((name) => !Object.hasOwn(PARTS, name));
  if (unknown !== undefined) {
    console.error(`There is no part "${unknown}". The parts are: ${Object.keys(PARTS).join(', ')}`);
    return 2;
  }
  const tables: string[] = [];
  let broker: Broker | undefined;
  for (const name of names.length > 0 ? names : Object.keys(PARTS)) {
    await endAll();
    await broker?.kill();
    broker = await Broker.start(); // a new one for each part: none pays for what another has left in memory
    tables.push(await PARTS[name]!(broker));
  }
  const command = ['npm run bench', ...names].join(' ').replace('bench ', 'bench -- ');
  console.log(await page(command, broker!, ...tables));
  return 0;
}

void runScript(main);
