// npm run bench: what a call costs beside plain amqplib, and how servers scale. What is compared is
// measured in rounds, each in random order: whatever else the machine does befalls all alike.
import { RpcClient } from '../../src/rpc_client';
import { Broker } from '../support/broker';
import { runScript } from '../support/machine';
import { connectPlain } from './plain';
import { addVhost, report, shuffled, startServer, untilServed } from './shared';

type Client = { call(request: string): Promise<string> };

/** Starts servers on a virtual host of their own, and returns its URL. */
async function startServers(broker: Broker, count: number, args: string[], script?: string) {
  const url = await addVhost(broker, [count, ...args, script].join(' '));
  for (let i = 0; i < count; i++) startServer(url, args, script);
  await untilServed(url, count);
  return url;
}

/** Keeps so many calls in flight for a while, and returns how many a second are answered. */
async function measure(client: Client, inFlight: number, seconds: number): Promise<number> {
  const start = performance.now();
  let answered = 0;
  const keepCalling = async () => {
    while (performance.now() < start + seconds * 1_000) {
      await client.call('30');
      answered++;
    }
  };
  await Promise.all(Array.from({ length: inFlight }, keepCalling));
  return Math.round((answered * 1_000) / (performance.now() - start));
}

/** Returns the calls/s of each client in each round. */
async function measureAll(clients: Client[], inFlight: number, rounds: number, seconds: number) {
  const rates: number[][] = clients.map(() => []);
  for (let round = 1; round <= rounds; round++) {
    console.error(`${inFlight} in flight: round ${round} of ${rounds}`);
    for (const i of shuffled([...clients.keys()])) {
      rates[i]!.push(await measure(clients[i]!, inFlight, seconds));
    }
  }
  return rates;
}

const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!;
const ratio = (rates: number[], others: number[]) =>
  median(rates.map((rate, round) => rate / others[round]!)).toFixed(2);

/** This port beside plain amqplib. */
async function compareWithPlain(broker: Broker) {
  const rows: object[] = [];
  for (const prefetch of ['1', '64']) {
    const url = await startServers(broker, 1, ['--prefetch', prefetch]);
    const plainUrl = await startServers(broker, 1, [prefetch], 'test/load/plain.ts');
    const clients = [await RpcClient.connect({ url }), await connectPlain(plainUrl)];
    for (const inFlight of [1, 64]) {
      const [port, plain] = (await measureAll(clients, inFlight, 21, 0.5)) as [number[], number[]];
      const rates = { 'calls/s': median(port), 'plain amqplib': median(plain) };
      rows.push({ prefetch, inFlight, ...rates, ratio: ratio(port, plain) });
    }
  }
  return rows;
}

/** More and more servers, whose requests take 20 ms each, with 64 in flight. */
async function addServers(broker: Broker) {
  const sizes = [1, 2, 4, 8];
  const clients: Client[] = [];
  for (const size of sizes) {
    const url = await startServers(broker, size, ['--delay', '20']);
    clients.push(await RpcClient.connect({ url }));
  }
  const rates = await measureAll(clients, 64, 5, 1);
  return rates.map((own, i) => {
    const speedup = ratio(own, rates[0]!);
    return { servers: sizes[i], 'calls/s': median(own), speedup };
  });
}

async function main(): Promise<number> {
  const broker = await Broker.start();
  await report(broker, await compareWithPlain(broker), await addServers(broker));
  return 0;
}

void runScript(main);
