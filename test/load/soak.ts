// npm run soak [-- --calls N]: calls, while servers, broker and network fail and return.
// It ends when there were N calls, and each fault once, at least.
import type { GetMessage } from 'amqplib';
import { execFileSync } from 'node:child_process';
import { cpSync, symlinkSync, writeFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { QUEUE, wholeNumber } from '../../src/connection';
import { fib } from '../../src/fib';
import { RpcClient, type RpcError } from '../../src/rpc_client';
import { Broker } from '../support/broker';
import { Command, ROOT, newFolder, runScript, until } from '../support/machine';
import { Proxy, type Faults } from '../support/proxy';
import { answer, openChannel } from './plain';
import { Calls, addVhost, report, shuffled, startServer, untilServed } from './shared';

const WARM_UP = 5_000; // calls, before memory is measured and anything fails
const MAX_GROWTH = 30; // MiB

let broker: Broker;
const lines: Proxy[] = []; // to the broker: those of four servers, and of two clients
const servers: Command[] = [];
let victim: number; // which server a fault befalls
let line: Proxy; // which line a fault befalls

// Short heartbeats, so that it is soon noticed when a line is half open.
const url = () => `${broker.url('', 'soak:soak')}?heartbeat=2`;
const permit = (what: string) => broker.ctl('set_permissions', 'soak', what, what, what);
const closeAll = () => broker.ctl('close_all_connections', '--global', 'soak');
const signal = (name: NodeJS.Signals) => () => servers[victim]!.kill(name);
const signalBroker = (name: NodeJS.Signals) => () => broker.node.kill(name);
const restore = () => (line.faults = {});
const randomBelow = (limit: number) => Math.floor(Math.random() * limit);

// They are their connections' own: only the broker itself can delete them.
const DELETE_REPLY_QUEUES = `[rabbit_amqqueue:delete(Q, false, false, <<"test">>) ||
  Q <- rabbit_amqqueue:list(<<"/">>), amqqueue:get_exclusive_owner(Q) =/= none].`;

// A server holds each request for a while, so that a kill finds one in its hands.
const serveOn = ({ url }: Proxy) => startServer(url, ['--delay', '5']);

async function startAgain(): Promise<void> {
  await servers[victim]!.exit();
  servers[victim] = serveOn(lines[victim]!);
}

function reconnect(faults: Faults): void {
  line.faults = faults;
  line.cut();
}

/** Stops all servers, and answers a thousand requests in their place, with basic.get. */
async function poll(): Promise<void> {
  const channel = await openChannel(broker.url());
  for (const server of servers) server.kill('SIGSTOP');
  for (let i = 0; i < 1_000; i++) {
    const request = await until('a request', () => channel.get(QUEUE));
    answer(channel, request as GetMessage);
  }
  for (const server of servers) server.kill('SIGCONT');
  await channel.close();
}

/** Stops a server, and a client of its own that has many calls in flight, for twelve seconds. */
async function sleep(): Promise<void> {
  const numbers = [...Array(500).keys()];
  const script = ['-r', 'ts-node/register', 'src/rpc_client.ts', '--timeout', '120000'];
  const env = { ...process.env, AMQP_URL: url() };
  const client = new Command('node', [...script, ...numbers.map(String)], env);
  await client.shows(/Requesting/);
  for (const sleeper of [client, servers[victim]!]) sleeper.kill('SIGSTOP');
  await pause(12_000);
  if (!client.running) throw new Error('The client had ended before it could sleep');
  for (const sleeper of [client, servers[victim]!]) sleeper.kill('SIGCONT');
  const { stdout, stderr } = await client.end(120_000);
  const isRight = (n: number) => stdout.includes(` [.] fib(${n}) = ${fib(n)}\n`);
  if (!numbers.every(isRight)) throw new Error(`A client that slept lacks answers: ${stderr}`);
}

/** Asks a copy of the server, on a virtual host of its own, which throws what the request says. */
async function throwAnything(): Promise<void> {
  const folder = newFolder('throwing');
  cpSync(`${ROOT}/src`, folder, { recursive: true });
  symlinkSync(`${ROOT}/node_modules`, `${folder}/node_modules`);
  writeFileSync(`${folder}/fib.ts`, 'exports.parseN = (thrown) => { throw eval(thrown) }');
  const url = await addVhost(broker, `throwing ${Date.now()}`);
  const server = startServer(url, [], `${folder}/rpc_server.ts`);
  const client = await RpcClient.connect({ url });
  const badError = 'Object.defineProperty(Error(), "message", { get() { throw 1 } })';
  for (const thrown of ['undefined', 'Object.create(null)', '({ toString: {} })', badError]) {
    const code = await client.call(thrown).catch((error: RpcError) => error.code);
    if (code !== 'SERVER') throw new Error(`From a server that throws ${thrown} came ${code}`);
  }
  await client.close();
  server.kill('SIGTERM');
  await server.exit();
}

// What each does at first, what at its end, and how many ms are between. Not among them is what
// loses requests by promise: rpc_queue is never purged or deleted.
const FAULTS: Record<string, [begin: () => unknown, end?: () => unknown, ms?: number]> = {
  'server killed': [signal('SIGKILL'), startAgain],
  'server stopped': [signal('SIGTERM'), startAgain],
  'server frozen': [signal('SIGSTOP'), signal('SIGCONT')],
  'server and client asleep': [sleep],
  'servers frozen, and one that polls': [poll],
  'requests that throw anything': [throwAnything],
  'permissions taken away': [() => permit('').then(closeAll), () => permit('.*'), 3_000],
  'broker killed': [() => broker.kill(), () => broker.boot()],
  'broker frozen': [signalBroker('SIGSTOP'), signalBroker('SIGCONT')],
  'broker frozen beyond heartbeats': [signalBroker('SIGSTOP'), signalBroker('SIGCONT'), 7_000],
  'connections closed by an operator': [closeAll],
  'reply queues deleted': [() => broker.ctl('eval', DELETE_REPLY_QUEUES)],
  'line cut with RST': [() => line.cut('RST')],
  'line cut with FIN': [() => line.cut('FIN')],
  'line half open, all held (up)': [() => line.hold('up')],
  'line half open, all held (down)': [() => line.hold('down')],
  'lines cut within 1,500 bytes': [() => reconnect({ cutAfter: randomBelow(1_500) }), restore],
  'connections refused': [() => line.refuse(), () => line.listen()],
  'connections accepted and closed': [() => reconnect({ closing: true }), restore],
  'connections accepted in silence': [() => reconnect({ silent: true }), restore],
  'connections late by 50 ms': [() => reconnect({ delay: 50 }), restore],
};

/** Lets a fault come and end, and waits until calls are answered again. */
async function fail(name: string, calls: Calls): Promise<void> {
  const [begin, end, ms = 1_500] = FAULTS[name]!;
  victim = 1 + randomBelow(servers.length - 1); // not the first: its memory is measured
  line = lines[randomBelow(lines.length)]!;
  await pause(randomBelow(2_000));
  if (servers.some(({ running }) => !running)) throw new Error('A server has ended by itself');
  console.error(name);
  await begin();
  if (end) await pause(ms);
  await end?.();
  const { right } = calls;
  await until(`a reply after: ${name}`, () => calls.right > right, 120_000);
}

/** The heap of the clients, and the whole of a server, in MiB. */
function measureMemory() {
  setFlagsFromString('--expose-gc');
  runInNewContext('gc')(); // collects the garbage
  const heap = process.memoryUsage().heapUsed / 2 ** 20;
  const rss = Number(execFileSync('ps', ['-o', 'rss=', '-p', String(servers[0]!.child.pid)]));
  return { clients: Math.round(heap), server: Math.round(rss / 2 ** 10) };
}

/** Starts broker, servers and clients, and keeps calls underway. */
async function start(): Promise<Calls> {
  broker = await Broker.start();
  await broker.ctl('add_user', 'soak', 'soak');
  await permit('.*');
  while (lines.length < 6) lines.push(await Proxy.start(url()));
  servers.push(...lines.slice(0, 4).map(serveOn));
  const clients = lines.slice(4).map(({ url }) => RpcClient.connect({ url }));
  return new Calls(await Promise.all(clients));
}

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { calls: { type: 'string', default: '20000' } } });
  const total = wholeNumber('--calls', values.calls, 1);
  const calls = await start();
  await until('calls', () => calls.right >= WARM_UP);
  const before = measureMemory();
  let rounds = 0;
  for (; rounds === 0 || (calls.right < total && calls.bad === 0); rounds++) {
    for (const name of shuffled(Object.keys(FAULTS))) await fail(name, calls);
  }
  await untilServed(broker.url(), 4);
  const counts = await calls.end();
  const after = measureMemory();
  await report(broker, { ...counts, 'times of each fault': rounds }, { before, after });
  const growth = Math.max(after.clients - before.clients, after.server - before.server);
  if (growth > MAX_GROWTH) console.error(`Memory has grown by ${growth} MiB`);
  return calls.right === calls.begun && growth <= MAX_GROWTH ? 0 : 1;
}

void runScript(main);
