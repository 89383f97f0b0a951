// npm run soak -- [--calls N] [--seed S]: calls, while servers, broker and network fail and come back. It ends when
// there were N calls at least, and each fault once at least.
import { connect } from 'amqplib';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { QUEUE } from '../../src/connection';
import { RpcClient } from '../../src/rpc_client';
import { Broker } from '../support/broker';
import { Command, generator, runScript, until } from '../support/processes';
import { Proxy, type Direction, type Faults } from '../support/proxy';
import { Calls, SERVER, heapInUse, page, rss, shuffled, table } from './shared';

const SERVERS = 4;
const CLIENTS = 2;
const IN_FLIGHT = 16; // for each client
const TIMEOUT = 120_000; // of a call, in ms: no fault lasts as long
const WARM_UP = 5_000; // calls, before memory is measured
const MAX_GROWTH = 20; // MB in 100,000 calls, or in all of them if they are fewer

interface Server { line: Proxy; process: Command }
interface Victims { server: Server; line: Proxy } // the line of any server or client
type Act = (victims: Victims) => unknown;
interface Fault { name: string; do: Act; undo?: Act; lasts?: number } // ms; 1,000 to 2,000 if it does not say

/** All that befalls them, but for what loses requests by promise: rpc_queue is never purged, never deleted. */
function faultsOf(broker: Broker, random: () => number, startServer: (line: Proxy) => Command): Fault[] {
  const signal = (name: NodeJS.Signals): Act => ({ server }) => server.process.kill(name);
  const startAgain: Act = async ({ server }) => {
    await server.process.exit();
    server.process = startServer(server.line);
  };
  const freeze = { do: () => broker.node.kill('SIGSTOP'), undo: () => broker.node.kill('SIGCONT') };
  const connectionsThat = (faults: Faults): Omit<Fault, 'name'> => ({
    do: ({ line }) => {
      line.faults = faults;
      line.cut();
    },
    undo: ({ line }) => (line.faults = {}),
  });
  const inDirection = (direction: Direction): Fault[] => [
    { name: `line half open, all held (${direction})`, do: ({ line }) => line.hold(direction) },
    { name: `next line cut after up to 1,500 bytes (${direction})`, do: ({ line }) => {
      line.next = [{ cutAfter: { bytes: Math.floor(random() * 1_500), direction } }];
      line.cut();
    } },
  ];
  return [
    { name: 'server killed', do: signal('SIGKILL'), undo: startAgain },
    { name: 'server stopped', do: signal('SIGTERM'), undo: startAgain },
    { name: 'server frozen', do: signal('SIGSTOP'), undo: signal('SIGCONT') },
    { name: 'broker killed', do: () => broker.kill(), undo: () => broker.boot() },
    { name: 'broker frozen', ...freeze },
    { name: 'broker frozen for longer than the heartbeats', ...freeze, lasts: 7_000 },
    { name: 'connections closed by an operator', do: () => broker.ctl('close_all_connections', 'soak') },
    { name: 'reply queues deleted', do: () => broker.deleteReplyQueues() },
    { name: 'line cut with RST', do: ({ line }) => line.cut('RST') },
    { name: 'line cut with FIN', do: ({ line }) => line.cut('FIN') },
    ...(['up', 'down'] as const).flatMap(inDirection),
    { name: 'connections refused', do: ({ line }) => line.refuse(), undo: ({ line }) => line.listen() },
    { name: 'connections accepted and closed', ...connectionsThat({ closing: true }) },
    { name: 'connections accepted in silence', ...connectionsThat({ silent: true }) },
    { name: 'connections late by 50 ms', ...connectionsThat({ delay: 50 }) },
  ];
}

/**
 * Deals out one fault after another, as cards are: each once before any comes again. Ends the calls when there were
 * enough of them, and each fault has come. Returns how often each came.
 */
async function keepFailing(
  faults: Fault[], servers: Server[], lines: Proxy[], random: () => number, calls: Calls, enough: number,
): Promise<Record<string, number>> {
  const count: Record<string, number> = Object.fromEntries(faults.map(({ name }) => [name, 0]));
  for (;;) {
    for (const { name, do: begin, undo, lasts = 1_000 + random() * 1_000 } of shuffled(faults, random)) {
      const server = shuffled(servers.slice(1), random)[0]!; // the first shows what a server holds after all its calls
      const victims = { server, line: shuffled(lines, random)[0]! };
      await pause(random() * 2_000);
      const ended = servers.find(({ process }) => !process.running);
      if (ended) throw new Error(`A server has ended by itself:\n${ended.process.stderr}`);
      if (calls.done >= enough && Object.values(count).every((times) => times > 0)) {
        calls.total = 0;
        return count;
      }
      console.error(name);
      count[name]!++;
      await begin(victims);
      if (undo) await pause(lasts);
      await undo?.(victims);
    }
  }
}

/** MB of this process, which the clients are in, and of the server that is never killed. */
const memoryOf = async ([first]: Server[]) => [heapInUse(), await rss(first!.process)].map((bytes) => bytes / 1e6);

/** Whether every server consumes and every client is answered, within 15 s. */
async function isBack(broker: Broker, clients: RpcClient[]): Promise<boolean> {
  const connection = await connect(broker.url());
  const channel = await connection.on('error', () => {}).createChannel(); // when the broker ends, at the end
  const consume = async () => (await channel.checkQueue(QUEUE)).consumerCount === SERVERS;
  const answers = clients.map((client) => client.call(30, { timeout: 15_000 }));
  return Promise.all([until('every server', consume, 15_000), ...answers]).then(() => true, () => false);
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { calls: { type: 'string', default: '20000' }, seed: { type: 'string' } } });
  const [total, seed] = [values.calls, values.seed ?? String(Date.now() % 2 ** 31)].map(Number) as [number, number];
  if (!(total > 0 && Number.isInteger(total + seed))) throw new Error('--calls and --seed must be whole numbers');
  const command = `npm run soak -- --calls ${total} --seed ${seed}`;
  console.error(command);
  const args = [...SERVER, '--delay', '5']; // so that a kill finds a request in its hands
  const broker = await Broker.start();
  const url = `${broker.url()}?heartbeat=2`; // so that a half open line is soon noticed
  const lines = await Promise.all(Array.from({ length: SERVERS + CLIENTS }, () => Proxy.start(url)));
  const startServer = (line: Proxy) => new Command('node', args, { ...process.env, AMQP_URL: line.url });
  const servers = lines.slice(CLIENTS).map((line) => ({ line, process: startServer(line) }));
  await Promise.all(servers.map(({ process }) => process.shows(/Awaiting/)));
  const clients = await Promise.all(lines.slice(0, CLIENTS).map(({ url }) => RpcClient.connect({ url })));
  const calls = new Calls(TIMEOUT);
  const calling = clients.map((client) => calls.keepCalling(client, IN_FLIGHT));
  const random = generator(seed); // for the faults alone: a seed gives them their order
  const faults = faultsOf(broker, random, startServer);
  console.error(`It takes ${total} calls and each of ${faults.length} faults:`);
  const failing = keepFailing(faults, servers, lines, random, calls, total);
  const warm = until('calls', () => calls.done >= WARM_UP, 600_000).then(() => memoryOf(servers));
  const [count, before] = await Promise.all([failing, warm, ...calling]);
  const back = await isBack(broker, clients);
  const after = await memoryOf(servers);
  const growth = Math.max(...after.map((MB, i) => MB - before[i]!)) / Math.max(1, (calls.done - WARM_UP) / 100_000);
  const end = ['at the end every server consumes, every client is answered', back ? 'yes' : 'no'];
  const outcomes = table(['calls', calls.done], [...calls.rows, end]);
  const names = ['clients (heap)', 'a server (RSS)'];
  const sizes = names.map((name, i) => [name, before[i]!.toFixed(), after[i]!.toFixed()]);
  const memory = table(['memory', `MB after ${WARM_UP} calls`, 'MB at the end'], sizes);
  console.log(await page(command, broker, outcomes, memory, table(['fault', 'times'], Object.entries(count))));
  if (growth > MAX_GROWTH) console.error(`Memory has grown by more than ${MAX_GROWTH} MB`);
  return calls.allRight && back && growth <= MAX_GROWTH ? 0 : 1;
}

void runScript(main);
