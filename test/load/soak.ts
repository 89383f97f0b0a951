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

const SERVERS = 4;
const CLIENTS = 2;
const WARM_UP = 5_000; // calls, before memory is measured
const MAX_GROWTH = 20; // MB in 100,000 calls, or in all of them if they are fewer

interface Server { line: Proxy; process: Command }
type Act = (server: Server, line: Proxy) => unknown; // the line of any server or client
type Fault = [begin: Act, end?: Act, ms?: number]; // from begin to end; 1,000 to 2,000 if it does not say

const serveAt = (line: Proxy) => startServer(line.url, ['--delay', '5']); // so that a kill finds a request in its hands

/** All that befalls them, but for what loses requests by promise: rpc_queue is never purged, never deleted. */
function faultsOf(broker: Broker, random: () => number): Record<string, Fault> {
  const signal = (name: NodeJS.Signals): Act => ({ process }) => process.kill(name);
  const startAgain: Act = async (server) => {
    await server.process.exit();
    server.process = serveAt(server.line);
  };
  const freeze: [Act, Act] = [() => broker.node.kill('SIGSTOP'), () => broker.node.kill('SIGCONT')];
  const connectionsThat = (faults: Faults): Fault =>
    [(_, line) => Object.assign(line, { faults }).cut(), (_, line) => (line.faults = {})];
  const inDirection = (direction: Direction): Record<string, Fault> => ({
    [`line half open, all held (${direction})`]: [(_, line) => line.hold(direction)],
    [`next line cut after up to 1,500 bytes (${direction})`]: [(_, line) => {
      line.next = [{ cutAfter: { bytes: Math.floor(random() * 1_500), direction } }];
      line.cut();
    }],
  });
  return {
    'server killed': [signal('SIGKILL'), startAgain],
    'server stopped': [signal('SIGTERM'), startAgain],
    'server frozen': [signal('SIGSTOP'), signal('SIGCONT')],
    'broker killed': [() => broker.kill(), () => broker.boot()],
    'broker frozen': freeze,
    'broker frozen for longer than the heartbeats': [...freeze, 7_000],
    'connections closed by an operator': [() => broker.closeConnections()],
    'reply queues deleted': [() => broker.deleteReplyQueues()],
    'line cut with RST': [(_, line) => line.cut('RST')],
    'line cut with FIN': [(_, line) => line.cut('FIN')],
    ...inDirection('up'),
    ...inDirection('down'),
    'connections refused': [(_, line) => line.refuse(), (_, line) => line.listen()],
    'connections accepted and closed': connectionsThat({ closing: true }),
    'connections accepted in silence': connectionsThat({ silent: true }),
    'connections late by 50 ms': connectionsThat({ delay: 50 }),
  };
}

/**
 * Deals out one fault after another, as cards are: each once before any comes again. Ends when each has come, and there
 * were enough calls. Returns how often each came.
 */
async function keepFailing(
  faults: Record<string, Fault>, servers: Server[], lines: Proxy[], random: () => number, enough: () => boolean,
): Promise<[string, number][]> {
  const times = new Map(Object.keys(faults).map((name) => [name, 0]));
  for (let deck: string[] = []; [...times.values()].includes(0) || !enough(); ) {
    if (deck.length === 0) deck = shuffled([...times.keys()], random);
    const name = deck.pop()!;
    const [begin, end, ms = 1_000 + random() * 1_000] = faults[name]!;
    const server = shuffled(servers.slice(1), random)[0]!; // the first shows what a server holds after all its calls
    const line = shuffled(lines, random)[0]!;
    await pause(random() * 2_000);
    const ended = servers.find(({ process }) => !process.running);
    if (ended) throw new Error(`A server has ended by itself:\n${ended.process.stderr}`);
    console.error(name);
    times.set(name, times.get(name)! + 1);
    await begin(server, line);
    if (end) await pause(ms);
    await end?.(server, line);
  }
  return [...times];
}

function parseCommandLine(): [calls: number, seed: number] {
  const seed = String(Date.now() % 2 ** 31);
  const options = { calls: { type: 'string', default: '20000' }, seed: { type: 'string', default: seed } } as const;
  const { values } = parseArgs({ options });
  return [wholeNumber('--calls', values.calls, 1), wholeNumber('--seed', values.seed, 0)];
}

async function main(): Promise<number> {
  const [total, seed] = parseCommandLine();
  const command = `npm run soak -- --calls ${total} --seed ${seed}`;
  console.error(command);
  const broker = await Broker.start();
  const url = `${broker.url()}?heartbeat=2`; // so that a half open line is soon noticed
  const lines = await Promise.all(Array.from({ length: SERVERS + CLIENTS }, () => Proxy.start(url)));
  const servers = lines.slice(CLIENTS).map((line) => ({ line, process: serveAt(line) }));
  await untilServed(broker.url(), SERVERS);
  const clients = await Promise.all(lines.slice(0, CLIENTS).map(({ url }) => RpcClient.connect({ url })));
  const calls = new Calls(clients, 16, 120_000); // no fault lasts as long
  const random = generator(seed); // for the faults alone: a seed gives them their order
  const faults = faultsOf(broker, random);
  console.error(`It takes ${total} calls and each of ${Object.keys(faults).length} faults:`);
  const memory = () => memoryWith(servers[0]!.process); // of the clients, and of the server that is never killed
  const warm = until('calls', () => calls.done >= WARM_UP, 600_000).then(memory);
  const failing = keepFailing(faults, servers, lines, random, () => calls.done >= Math.max(total, WARM_UP));
  const [before, times] = await Promise.all([warm, failing]);
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
  return calls.allRight && back && growth <= MAX_GROWTH ? 0 : 1;
}

void runScript(main);
