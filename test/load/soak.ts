// npm run soak -- [--calls N] [--seed S]: calls, while servers, broker and network fail and come back. It ends when
// there were N calls at least, and each fault once at least.
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { wholeNumber } from '../../src/connection';
import { RpcClient } from '../../src/rpc_client';
import { Broker } from '../support/broker';
import { generator, runScript, until, type Command } from '../support/processes';
import { Proxy, type Direction, type Faults } from '../support/proxy';
import { Calls, memoryWith, page, shuffled, startServer, table, untilServed } from './shared';

const [SERVERS, CLIENTS] = [4, 2];
const WARM_UP = 5_000; // calls, before memory is measured
const MAX_GROWTH = 20; // MB in 100,000 calls, or in all of them if they are fewer

interface Server { line: Proxy; process: Command }
interface Victims { broker: Broker; server: Server; line: Proxy; random: () => number } // line: of a server or client
type Act = (victims: Victims) => unknown;
type Fault = [begin: Act, end?: Act, ms?: number]; // for so long; 1,000 to 2,000 if it does not say

const serveAt = (line: Proxy) => startServer(line.url, ['--delay', '5']); // so that a kill finds a request in its hands
const signal = (name: NodeJS.Signals): Act => ({ server }) => server.process.kill(name);
const startAgain: Act = async ({ server }) => {
  await server.process.exit();
  server.process = serveAt(server.line);
};
const freeze: [Act, Act] = [({ broker }) => broker.node.kill('SIGSTOP'), ({ broker }) => broker.node.kill('SIGCONT')];
const cutNext = (direction: Direction): Act => ({ line, random }) => {
  line.next = [{ cutAfter: { bytes: Math.floor(random() * 1_500), direction } }];
  line.cut();
};
const connections = (faults: Faults): Fault =>
  [({ line }) => Object.assign(line, { faults }).cut(), ({ line }) => (line.faults = {})];

/** All that befalls them, but for what loses requests by promise: rpc_queue is never purged, never deleted. */
const FAULTS: Record<string, Fault> = {
  'server killed': [signal('SIGKILL'), startAgain],
  'server stopped': [signal('SIGTERM'), startAgain],
  'server frozen': [signal('SIGSTOP'), signal('SIGCONT')],
  'broker killed': [({ broker }) => broker.kill(), ({ broker }) => broker.boot()],
  'broker frozen': freeze,
  'broker frozen for longer than the heartbeats': [...freeze, 7_000],
  'connections closed by an operator': [({ broker }) => broker.ctl('close_all_connections', '--global', 'soak')],
  'reply queues deleted': [({ broker }) => broker.deleteReplyQueues()],
  'line cut with RST': [({ line }) => line.cut('RST')],
  'line cut with FIN': [({ line }) => line.cut('FIN')],
  'line half open, all held (up)': [({ line }) => line.hold('up')],
  'next line cut after up to 1,500 bytes (up)': [cutNext('up')],
  'line half open, all held (down)': [({ line }) => line.hold('down')],
  'next line cut after up to 1,500 bytes (down)': [cutNext('down')],
  'connections refused': [({ line }) => line.refuse(), ({ line }) => line.listen()],
  'connections accepted and closed': connections({ closing: true }),
  'connections accepted in silence': connections({ silent: true }),
  'connections late by 50 ms': connections({ delay: 50 }),
};

/** Deals out faults as cards are, each once before any comes again, until each came and `enough`. Returns how often. */
async function keepFailing(broker: Broker, servers: Server[], lines: Proxy[], seed: number, enough: () => boolean) {
  const random = generator(seed);
  const times = new Map(Object.keys(FAULTS).map((name) => [name, 0]));
  for (let deck: string[] = []; [...times.values()].includes(0) || !enough(); ) {
    if (deck.length === 0) deck = shuffled([...times.keys()], random);
    const name = deck.pop()!;
    const [begin, end, ms = 1_000 + random() * 1_000] = FAULTS[name]!;
    const server = shuffled(servers.slice(1), random)[0]!; // the first shows what a server holds after all its calls
    const victims = { broker, server, line: shuffled(lines, random)[0]!, random };
    await pause(random() * 2_000);
    const ended = servers.find(({ process }) => !process.running);
    if (ended) throw new Error(`A server has ended by itself:\n${ended.process.stderr}`);
    console.error(name);
    times.set(name, times.get(name)! + 1);
    await begin(victims);
    if (end) await pause(ms);
    await end?.(victims);
  }
  return [...times];
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { calls: { type: 'string' }, seed: { type: 'string' } } });
  const total = wholeNumber('--calls', values.calls ?? 20_000, 1);
  const seed = wholeNumber('--seed', values.seed ?? Date.now() % 2 ** 31, 0); // gives the faults their order
  const command = `npm run soak -- --calls ${total} --seed ${seed}`;
  console.error(`${command}\nIt takes ${total} calls and each of ${Object.keys(FAULTS).length} faults:`);
  const broker = await Broker.start();
  const url = `${broker.url()}?heartbeat=2`; // so that a half open line is soon noticed
  const lines = await Promise.all(Array.from({ length: SERVERS + CLIENTS }, () => Proxy.start(url)));
  const servers = lines.slice(CLIENTS).map((line) => ({ line, process: serveAt(line) }));
  await untilServed(broker.url(), SERVERS);
  const clients = await Promise.all(lines.slice(0, CLIENTS).map(({ url }) => RpcClient.connect({ url })));
  const calls = new Calls(clients, 16, 120_000); // no fault lasts as long
  const memory = () => memoryWith(servers[0]!.process); // of the clients, and of the server that is never killed
  const warm = until('calls', () => calls.done >= WARM_UP, 600_000).then(memory);
  const enough = () => calls.done >= Math.max(total, WARM_UP);
  const [before, times] = await Promise.all([warm, keepFailing(broker, servers, lines, seed, enough)]);
  await calls.end();
  const answers = clients.map((client) => client.call(30, { timeout: 15_000 }));
  const all = [untilServed(broker.url(), SERVERS, 15_000), ...answers];
  const back = await Promise.all(all).then(() => true, () => false);
  const after = memory();
  const growth = Math.max(...after.map((MB, i) => MB - before[i]!)) / Math.max(1, (calls.done - WARM_UP) / 100_000);
  const outcomes = calls.table(['at the end every server consumes, every client is answered', back ? 'yes' : 'no']);
  const held = ['clients (heap)', 'a server (RSS)'].map((name, i) => [name, before[i]!.toFixed(), after[i]!.toFixed()]);
  const sizes = table(['memory', `MB after ${WARM_UP} calls`, 'MB at the end'], held);
  console.log(await page(command, broker, outcomes, sizes, table(['fault', 'times'], times)));
  if (growth > MAX_GROWTH) console.error(`Memory has grown by more than ${MAX_GROWTH} MB`);
  return calls.allRight() && back && growth <= MAX_GROWTH ? 0 : 1;
}

void runScript(main);
