// npm run soak -- [--calls N] [--seed S]: calls without end, while servers, broker and network fail and come back.
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { RpcClient } from '../../src/rpc_client';
import { Broker } from '../support/broker';
import { Command, generator, runScript, table, until } from '../support/processes';
import { Proxy, type Direction, type Faults } from '../support/proxy';
import { Calls, build, heading, shuffled } from './shared';

const SERVERS = 4;
const CLIENTS = 2;
const IN_FLIGHT = 16; // for each client
const TIMEOUT = 120_000; // of a call, in ms: no fault lasts as long
const COME_BACK = 15_000; // ms, at the end
// They are their connections' own: only the broker itself can.
const DELETE_REPLY_QUEUES = `[rabbit_amqqueue:delete(Q, false, false, <<"soak">>) ||
  Q <- rabbit_amqqueue:list(), {_, _, queue, <<"amq.gen-", _/binary>>} <- [amqqueue:get_name(Q)]].`;

interface Server { line: Proxy; process: Command }
interface Victims { server: Server; line: Proxy } // the line of any server or client
type Act = (victims: Victims) => unknown;
interface Fault { name: string; do: Act; undo?: Act; lasts?: number } // ms; 1,000 to 2,000 if it does not say

/** All that befalls them, but for what loses requests by promise: rpc_queue is never purged, never deleted. */
function faultsOf(broker: Broker, random: () => number, startServer: (line: Proxy) => Command): Fault[] {
  const signal = (name: NodeJS.Signals) => ({ server }: Victims) => server.process.kill(name);
  const startAgain = async ({ server }: Victims) => {
    await server.process.exit();
    server.process = startServer(server.line);
  };
  const freeze = { do: () => broker.signal('SIGSTOP'), undo: () => broker.signal('SIGCONT') };
  const connectionsThat = (faults: Faults): Omit<Fault, 'name'> => ({
    do: ({ line }) => {
      line.faults = faults;
      line.cut();
    },
    undo: ({ line }) => (line.faults = {}),
  });
  const cutAfter = (direction: Direction) => ({ line }: Victims) => {
    line.next = [{ cutAfter: { bytes: Math.floor(random() * 1_500), direction } }];
    line.cut();
  };
  return [
    { name: 'server killed', do: signal('SIGKILL'), undo: startAgain },
    { name: 'server stopped', do: signal('SIGTERM'), undo: startAgain },
    { name: 'server frozen', do: signal('SIGSTOP'), undo: signal('SIGCONT') },
    { name: 'broker killed', do: () => broker.kill(), undo: () => broker.boot() },
    { name: 'broker frozen', ...freeze },
    { name: 'broker frozen for longer than the heartbeats', ...freeze, lasts: 7_000 },
    { name: 'connections closed by an operator', do: () => broker.ctl('close_all_connections', 'soak') },
    { name: 'reply queues deleted', do: () => broker.ctl('eval', DELETE_REPLY_QUEUES) },
    { name: 'line cut with RST', do: ({ line }) => line.cut('RST') },
    { name: 'line cut with FIN', do: ({ line }) => line.cut('FIN') },
    { name: 'line half open, nothing reaches the broker', do: ({ line }) => line.hold('up') },
    { name: 'line half open, nothing reaches the program', do: ({ line }) => line.hold('down') },
    { name: 'next line cut after up to 1,500 bytes sent', do: cutAfter('up') },
    { name: 'next line cut after up to 1,500 bytes received', do: cutAfter('down') },
    { name: 'connections refused', do: ({ line }) => line.refuse(), undo: ({ line }) => line.listen() },
    { name: 'connections accepted and closed', ...connectionsThat({ closing: true }) },
    { name: 'connections accepted in silence', ...connectionsThat({ silent: true }) },
    { name: 'connections late by 50 ms', ...connectionsThat({ delay: 50 }) },
  ];
}

/** Deals out one fault after another, like cards: each once before any comes again. Returns how often each came. */
async function keepFailing(faults: Fault[], servers: Server[], lines: Proxy[], random: () => number, calls: Calls) {
  const count: Record<string, number> = Object.fromEntries(faults.map(({ name }) => [name, 0]));
  for (;;) {
    for (const { name, do: begin, undo, lasts = 1_000 + random() * 1_000 } of shuffled(faults, random)) {
      const victims = { server: shuffled(servers, random)[0]!, line: shuffled(lines, random)[0]! };
      await pause(random() * 2_000);
      const ended = servers.find(({ process }) => !process.running);
      if (ended) throw new Error(`A server has ended by itself:\n${ended.process.stderr}`);
      if (calls.done === calls.total) return count;
      console.error(name);
      count[name]!++;
      await begin(victims);
      if (undo) await pause(lasts);
      await undo?.(victims);
    }
  }
}

/** Calls until every client was answered and every server was called. Returns the time that took, in ms, if it did. */
async function comeBack(clients: RpcClient[], servers: Server[]): Promise<number | undefined> {
  const start = performance.now();
  const before = servers.map(({ process }) => process.stdout.length);
  const allCalled = () => servers.every(({ process }, i) => /^ \[\.\]/m.test(process.stdout.slice(before[i])));
  const ask = () => Promise.all(clients.flatMap((one) => servers.map(() => one.call(30, { timeout: COME_BACK }))));
  const allBack = await until('every server', () => ask().then(allCalled), COME_BACK).catch(() => false);
  const time = performance.now() - start;
  return allBack && time < COME_BACK ? time : undefined;
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { calls: { type: 'string', default: '20000' }, seed: { type: 'string' } } });
  const [total, seed] = [Number(values.calls), Number(values.seed ?? Date.now() % 2 ** 31)];
  if (!(Number.isInteger(total) && total > 0 && Number.isInteger(seed))) {
    throw new Error('Usage: npm run soak -- [--calls N] [--seed S], both whole numbers');
  }
  const command = `npm run soak -- --calls ${total} --seed ${seed}`;
  console.error(command);
  const args = [path.join(build(), 'rpc_server.js'), '--delay', '5']; // so that a kill finds a request in its hands
  const broker = await Broker.start();
  const url = `${broker.url()}?heartbeat=2`; // so that a half open line is soon noticed
  const lines = await Promise.all(Array.from({ length: SERVERS + CLIENTS }, () => Proxy.start(url)));
  const startServer = (line: Proxy) => new Command('node', args, { AMQP_URL: line.url });
  const servers = lines.slice(CLIENTS).map((line) => ({ line, process: startServer(line) }));
  await Promise.all(servers.map(({ process }) => process.shows(/Awaiting/)));
  let dropped = 0;
  const log = (line: string) => line.startsWith('Dropped') && dropped++;
  const clients = await Promise.all(lines.slice(0, CLIENTS).map((line) => RpcClient.connect({ url: line.url, log })));
  const calls = new Calls(TIMEOUT, total);
  const calling = clients.map((client) => calls.keepCalling(client, IN_FLIGHT));
  const random = generator(seed); // for the faults alone: a seed gives them their order
  const failing = keepFailing(faultsOf(broker, random, startServer), servers, lines, random, calls);
  const [count] = await Promise.all([failing, ...calling]);
  const back = await comeBack(clients, servers);
  console.log(`${await heading(command, broker)}\n`);
  const end = ['at the end all clients and servers answer', back ? `after ${Math.round(back)} ms` : 'no'];
  console.log(table(['', ''], [...calls.rows, ['duplicates dropped', dropped], end, ...Object.entries(count)]));
  return calls.allRight && back ? 0 : 1;
}

void runScript(main);
