// The benchmark's parts that one client sees: `calls`, what a call costs beside plain amqplib; `servers`, how they
// scale; `fib`, how a call grows with n, and what of it is the function, and what the two conversions.
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { fib, readResult, writeResult } from '../../src/fib';
import { RpcClient } from '../../src/rpc_client';
import type { Broker } from '../support/broker';
import { Command, newFolder } from '../support/processes';
import { type Call, digits, measure, median, ratio, spread, startServers, stop } from './measure';
import { type Plain, plainClient, plainServer } from './plain';
import { SERVER, shuffled, table } from './shared';

const ROUNDS = 11;
const IN_FLIGHT = [1, 64, 512];
const SIZES = [1, 2, 4, 8, 16]; // servers
const NUMBERS = [1, 30, 1_000, 10_000, 100_000, 1_000_000]; // n
const FIB_ROUNDS = 5;

interface Program { server: string[]; plain?: Plain; inFlight?: number[]; queueType?: 'quorum' }
interface Row { name: string; inFlight: number; call: Call; rates: number[]; times: number[] } // calls/s, median ms

const plain = (options: Plain) => ({ server: plainServer(options), plain: options });
const prefetch64 = [...SERVER, '--prefetch', '64'];
const PROGRAMS: Record<string, Program> = {
  'this port': { server: SERVER },
  "the tutorial's programs": plain({ prefetch: 1, works: true, noDelay: true }),
  'this port, prefetch 64': { server: prefetch64 },
  "the tutorial's, prefetch 64": plain({ prefetch: 64, works: true, noDelay: true }),
  "the broker's limit": plain({ prefetch: 0, noDelay: true }),
  'this port, quorum queue': { server: SERVER, queueType: 'quorum', inFlight: [1, 64] },
  'this port, prefetch 64, quorum queue': { server: prefetch64, queueType: 'quorum', inFlight: [1, 64] },
  "the tutorial's, Nagle's algorithm on": { ...plain({ prefetch: 1, works: true, noDelay: false }), inFlight: [1] },
};
const BESIDE = Object.keys(PROGRAMS).slice(0, 5);

/** Adds a virtual host for each program, all in one command. */
async function addVhosts(broker: Broker): Promise<void> {
  const vhosts = Object.keys(PROGRAMS).map((name) => ({ name }));
  const all = { configure: '.*', write: '.*', read: '.*' };
  const permissions = vhosts.map(({ name }) => ({ user: 'guest', vhost: name, ...all }));
  const file = path.join(newFolder('definitions'), 'definitions.json');
  writeFileSync(file, JSON.stringify({ vhosts, permissions }));
  await broker.ctl('import_definitions', file);
}

async function start(url: string, { server, plain, queueType }: Program): Promise<{ servers: Command[]; call: Call }> {
  const servers = await startServers(url, 1, server, queueType);
  if (plain) return { servers, call: await plainClient(url, plain) };
  const client = await RpcClient.connect({ url });
  return { servers, call: () => client.call(30) };
}

export async function benchCalls(broker: Broker): Promise<string> {
  await addVhosts(broker);
  const groups = IN_FLIGHT.map((): Row[] => []);
  for (const [name, program] of Object.entries(PROGRAMS)) {
    const { call } = await start(broker.url(name), program);
    for (const [i, inFlight] of (program.inFlight ?? IN_FLIGHT).entries()) {
      groups[i]!.push({ name, inFlight, call, rates: [], times: [] });
    }
  }
  for (let round = 1; round <= ROUNDS; round++) {
    console.error(`calls: round ${round} of ${ROUNDS}`);
    for (const { call, inFlight, rates, times } of groups.flatMap((group) => shuffled(group, Math.random))) {
      const measured = await measure(call, inFlight);
      rates.push(measured.rate);
      times.push(median(measured.times));
    }
  }
  const head = ['in flight', '', 'calls/s', 'median ms', ...BESIDE.map((name) => `of ${name}`)];
  return table(head, groups.flatMap((group) => group.map(({ inFlight, name, rates, times }) => {
    const ratios = BESIDE.map((beside) => ratio(rates, group.find((row) => row.name === beside)!.rates));
    return [inFlight, name, spread(rates), digits(median(times)), ...ratios];
  })));
}

async function benchDelay(broker: Broker, client: RpcClient, delay: number): Promise<string> {
  const rates = SIZES.map((): number[] => []);
  for (let round = 1; round <= 3; round++) {
    console.error(`servers: round ${round} of 3, --delay ${delay}`);
    const servers: Command[] = [];
    for (const [i, size] of SIZES.entries()) {
      const more = size - servers.length;
      servers.push(...(await startServers(broker.url(), more, [...SERVER, '--delay', `${delay}`])));
      rates[i]!.push((await measure(() => client.call(30), 64, 1)).rate);
    }
    await stop(servers);
  }
  const efficiency = (i: number) => ratio(rates[i]!, rates[0]!.map((rate) => rate * SIZES[i]!));
  const rows = SIZES.map((size, i) => [size, spread(rates[i]!), efficiency(i)]);
  return table(['servers', `calls/s, 64 in flight, --delay ${delay}`, 'efficiency'], rows);
}

export async function benchServers(broker: Broker): Promise<string> {
  const client = await RpcClient.connect({ url: broker.url() });
  const tables = [await benchDelay(broker, client, 20), await benchDelay(broker, client, 0)];
  await client.close();
  return tables.join('\n\n');
}

type Four = [number, number, number, number]; // ms: a call, the function, and the two conversions

/** The ms that `work` takes, as the mean of all that fit into 20 ms. */
function timeOf(work: () => unknown): number {
  const start = performance.now();
  for (let times = 1; ; times++) {
    work();
    const time = performance.now() - start;
    if (time >= 20) return time / times;
  }
}

export async function benchFib(broker: Broker): Promise<string> {
  const servers = await startServers(broker.url(), 1);
  const client = await RpcClient.connect({ url: broker.url() });
  const rows = NUMBERS.map((n) => ({ n, value: fib(n), body: writeResult(fib(n)), times: [] as Four[] }));
  for (let round = 1; round <= FIB_ROUNDS; round++) {
    console.error(`fib: round ${round} of ${FIB_ROUNDS}`);
    for (const { n, value, body, times } of rows) {
      const call = median((await measure(() => client.call(n), 1)).times);
      times.push([call, timeOf(() => fib(n)), timeOf(() => writeResult(value)), timeOf(() => readResult(body))]);
    }
  }
  await client.close();
  await stop(servers);
  const head = ['n', 'ms for a call', 'of that the function', 'digits from the number', 'the number from digits',
    'these two, of the function'];
  return table(head, rows.map(({ n, times }) => {
    const [call, own, write, read] = [0, 1, 2, 3].map((i) => median(times.map((each) => each[i]!))) as Four;
    return [n.toLocaleString('en'), ...[call, own, write, read, (write + read) / own].map(digits)];
  }));
}
