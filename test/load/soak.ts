// npm run soak -- [--calls N] [--seed S]: calls without end, while servers, broker and network fail and come back.
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { fib } from '../../src/fib';
import { RpcClient } from '../../src/rpc_client';
import { Broker } from '../support/broker';
import { Command, generator, runScript, table, until } from '../support/processes';
import { Proxy, type Direction, type Faults } from '../support/proxy';
import { build, heading, shuffled } from './shared';

const SERVERS = 4;
const CLIENTS = 2;
const IN_FLIGHT = 16; // for each client
const MAX_N = 2_000;
const TIMEOUT = 120_000; // of a call, in ms: no fault lasts as long
const COME_BACK = 15_000; // ms, at the end
const REPLY_QUEUES = 'Q <- rabbit_amqqueue:list(), {_, _, queue, <<"amq.gen-", _/binary>>} <- [amqqueue:get_name(Q)]';

interface Server {
  line: Proxy;
  process: Command;
}

/** Whom a fault befalls. */
interface Victims {
  server: Server;
  line: Proxy;
}

interface Fault {
  name: string;
  do: (victims: Victims) => unknown;
  undo?: (victims: Victims) => unknown;
  /** Milliseconds between the two. @default 1,000 to 2,000 */
  lasts?: number;
}

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
    {
      name: 'reply queues deleted', // which are their connections' own: only the broker itself can
      do: () => broker.ctl('eval', `[rabbit_amqqueue:delete(Q, false, false, <<"soak">>) || ${REPLY_QUEUES}].`),
    },
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

/** What became of the calls. */
class Calls {
  readonly outcomes: Record<string, number> = { right: 0, wrong: 0, failed: 0, late: 0, stuck: 0 };
  readonly reasons: Record<string, number> = {};
  done = 0;
  longest = 0; // ms
  #left: number;

  constructor(readonly total: number, readonly random: () => number) {
    this.#left = total;
  }

  async keepCalling(client: RpcClient): Promise<void> {
    while (this.#left-- > 0) {
      const start = performance.now();
      const outcome = await this.#call(client, Math.floor(this.random() * MAX_N));
      const time = performance.now() - start;
      this.outcomes[outcome]!++;
      this.done++;
      if (outcome !== 'stuck' && time > TIMEOUT + 1_000) this.outcomes.late!++;
      this.longest = Math.max(this.longest, time);
    }
  }

  async #call(client: RpcClient, n: number): Promise<string> {
    let timer: NodeJS.Timeout;
    const stuck = new Promise<string>((resolve) => (timer = setTimeout(resolve, TIMEOUT + 10_000, 'stuck')));
    const onValue = (value: bigint) => (value === fib(n) ? 'right' : 'wrong');
    const onError = ({ message }: Error) => {
      this.reasons[message] = (this.reasons[message] ?? 0) + 1;
      return 'failed';
    };
    return Promise.race([client.call(n, { timeout: TIMEOUT }).then(onValue, onError), stuck]).finally(() => clearTimeout(timer));
  }
}

/** Deals out one fault after another, like cards: each once before any comes again. Returns how often each came. */
async function keepFailing(
  faults: Fault[], servers: Server[], lines: Proxy[], random: () => number, isOver: () => boolean,
): Promise<Record<string, number>> {
  const count = Object.fromEntries(faults.map(({ name }) => [name, 0]));
  const one = <T>(from: T[]) => from[Math.floor(random() * from.length)]!;
  for (;;) {
    for (const fault of shuffled(faults, random)) {
      const victims = { server: one(servers), line: one(lines) };
      const lasts = fault.lasts ?? 1_000 + random() * 1_000;
      await pause(random() * 2_000);
      const ended = servers.find(({ process }) => !process.running);
      if (ended) throw new Error(`A server has ended by itself:\n${ended.process.stderr}`);
      if (isOver()) return count;
      count[fault.name]!++;
      await fault.do(victims);
      if (fault.undo) await pause(lasts);
      await fault.undo?.(victims);
    }
  }
}

/** Calls until every client was answered and every server was called. Returns the time that took, in ms. */
async function comeBack(clients: RpcClient[], servers: Server[]): Promise<number> {
  const start = performance.now();
  const before = servers.map(({ process }) => process.stdout.length);
  const allCalled = () => servers.every(({ process }, i) => /^ \[\.\]/m.test(process.stdout.slice(before[i])));
  const call = (client: RpcClient) => client.call(30, { timeout: COME_BACK });
  const round = () => Promise.all(clients.flatMap((client) => servers.map(() => call(client))));
  const isBack = await until('every server', () => round().then(allCalled), COME_BACK).catch(() => false);
  return isBack ? performance.now() - start : Infinity;
}

function parseCommandLine(): { total: number; seed: number } {
  const { values } = parseArgs({ options: { calls: { type: 'string', default: '20000' }, seed: { type: 'string' } } });
  const total = Number(values.calls);
  const seed = Number(values.seed ?? Date.now() % 2 ** 31);
  if (Number.isInteger(total) && total > 0 && Number.isInteger(seed)) return { total, seed };
  throw new Error('Usage: npm run soak -- [--calls N] [--seed S], both whole numbers');
}

async function main(): Promise<number> {
  const { total, seed } = parseCommandLine();
  const command = `npm run soak -- --calls ${total} --seed ${seed}`;
  console.error(command);
  const scripts = build();
  const broker = await Broker.start();
  const url = `${broker.url()}?heartbeat=2`; // so that a half open line is soon noticed
  const lines = await Promise.all(Array.from({ length: SERVERS + CLIENTS }, () => Proxy.start(url)));
  // A server holds each request for 5 ms, so that a kill finds one in its hands.
  const args = [path.join(scripts, 'rpc_server.js'), '--delay', '5'];
  const startServer = (line: Proxy) => new Command('node', args, { AMQP_URL: line.url });
  const servers = lines.slice(CLIENTS).map((line) => ({ line, process: startServer(line) }));
  await Promise.all(servers.map(({ process }) => process.shows(/Awaiting/)));
  let dropped = 0;
  const log = (line: string) => line.startsWith('Dropped') && dropped++;
  const clients = await Promise.all(lines.slice(0, CLIENTS).map((line) => RpcClient.connect({ url: line.url, log })));

  const calls = new Calls(total, generator(seed + 1));
  const random = generator(seed); // for the faults alone: a seed gives them their order
  const calling = clients.flatMap((client) => Array.from({ length: IN_FLIGHT }, () => calls.keepCalling(client)));
  const faults = faultsOf(broker, random, startServer);
  const failing = keepFailing(faults, servers, lines, random, () => calls.done === total);
  const progress = setInterval(() => console.error(`${calls.done} calls done`), 20_000);
  const [count] = await Promise.all([failing, ...calling]);
  clearInterval(progress);
  const back = await comeBack(clients, servers);
  await Promise.all(clients.map((client) => client.close()));

  console.log(`${await heading(command, broker)}\n`);
  console.log(table(['calls', total.toLocaleString('en')], [
    ...Object.entries(calls.outcomes),
    ...Object.entries(calls.reasons).map(([reason, n]) => [`failed: ${reason}`, n]),
    ['duplicates dropped', dropped],
    ['longest call', `${Math.round(calls.longest)} ms`],
    ['at the end all clients and servers answer', back < Infinity ? `after ${Math.round(back)} ms` : 'no'],
    ...Object.entries(count),
  ]));
  return calls.outcomes.right === total && calls.outcomes.late === 0 && back <= COME_BACK ? 0 : 1;
}

void runScript(main);
