// npm run bench [-- calls]: what a call costs and how servers scale, as ratios measured side by side in one run.
import { connect } from 'amqplib';
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { RpcClient } from '../../src/rpc_client';
import { Broker } from '../support/broker';
import { Command, newFolder, runScript, table, until } from '../support/processes';
import { build, heading, shuffled } from './shared';

const ROUNDS = 9;
const SECONDS = 1.5; // of each measurement
const SIZES = [1, 2, 4, 8, 16]; // servers

// What this port is held against, by queue: plain amqplib, the same messages and properties, and nothing else.
const BARE: Record<string, { noAck: boolean; noDelay: boolean }> = {
  "the broker's limit": { noAck: true, noDelay: true },
  "the tutorial's path": { noAck: false, noDelay: true }, // prefetch 1, acknowledges by hand
  "the tutorial's path, Nagle's algorithm on": { noAck: false, noDelay: false }, // amqplib's default
};
const LIMITS = Object.keys(BARE).slice(0, 2);

type Call = () => Promise<unknown>;
interface Rate { rate: number; p50: number; p99: number } // calls a second, ms, ms
interface Row { inFlight: number; name: string; call: Call; rounds: Rate[] }

/** Keeps `inFlight` calls going for SECONDS, after a tenth of that to warm up. */
async function measure(call: Call, inFlight: number): Promise<Rate> {
  const times: number[] = [];
  const begin = performance.now() + SECONDS * 100;
  const end = begin + SECONDS * 1_000;
  const keepCalling = async () => {
    for (let start = performance.now(); start < end; start = performance.now()) {
      await call();
      if (start >= begin) times.push(performance.now() - start);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, keepCalling));
  times.sort((a, b) => a - b);
  return { rate: times.length / SECONDS, p50: times[times.length >> 1]!, p99: times[Math.floor(times.length * 0.99)]! };
}

const median = (values: number[]) => [...values].sort((a, b) => a - b)[values.length >> 1]!;
const digits = (value: number) => value.toLocaleString('en', { maximumSignificantDigits: value < 100 ? 2 : 4 });
/** The median of the rounds, and their least and greatest. */
const spread = (values: number[]) =>
  `${digits(median(values))} (${digits(Math.min(...values))} to ${digits(Math.max(...values))})`;

async function bareServer(queue: string): Promise<void> {
  const { noAck, noDelay } = BARE[queue]!;
  const channel = await (await connect(process.env.AMQP_URL!, { noDelay })).createChannel();
  await channel.assertQueue(queue, { durable: true });
  if (!noAck) await channel.prefetch(1);
  const body = Buffer.from('832040');
  await channel.consume(queue, (request) => {
    const { replyTo, correlationId } = request!.properties;
    channel.sendToQueue(replyTo, body, { correlationId, type: 'result', contentType: 'text/plain' });
    if (!noAck) channel.ack(request!);
  }, { noAck });
  console.log('Awaiting');
}

async function bareClient(url: string, queue: string): Promise<Call> {
  const channel = await (await connect(url, { noDelay: BARE[queue]!.noDelay })).createChannel();
  const { queue: replyTo } = await channel.assertQueue('', { exclusive: true, durable: false });
  const pending = new Map<string, (value: unknown) => void>();
  await channel.consume(replyTo, (reply) => pending.get(reply!.properties.correlationId)!(reply), { noAck: true });
  const body = Buffer.from('30');
  const properties = { contentType: 'text/plain', replyTo, mandatory: true, expiration: 30_000 };
  return async () => {
    const correlationId = randomUUID();
    const answer = new Promise((resolve) => pending.set(correlationId, resolve));
    channel.sendToQueue(queue, body, { ...properties, correlationId });
    await answer;
    pending.delete(correlationId);
  };
}

/** A server that logs to a file: the process that measures the client is not to read what it writes, too. */
async function startServer(url: string, ...command: string[]): Promise<Command> {
  const log = path.join(newFolder('server'), 'log');
  const server = new Command('sh', ['-c', 'exec "$@" > "$0"', log, 'node', ...command], { AMQP_URL: url });
  await until('a server', () => existsSync(log) && readFileSync(log, 'utf8').includes('Awaiting'));
  return server;
}

async function stop(servers: Command[]): Promise<void> {
  for (const server of servers) server.kill('SIGTERM');
  await Promise.all(servers.map((server) => server.exit()));
}

async function benchCalls(url: string, script: string, ours: Call): Promise<void> {
  const queues = Object.keys(BARE);
  const startBare = (queue: string) => startServer(url, '-r', 'ts-node/register', __filename, 'bare', queue);
  const servers = await Promise.all([...queues.map(startBare), startServer(url, script)]);
  const bare = queues.map(async (queue) => ({ name: queue, call: await bareClient(url, queue) }));
  const clients = [...(await Promise.all(bare)), { name: 'this port', call: ours }];
  const groups = [1, 64].map((inFlight) => clients.map((client): Row => ({ ...client, inFlight, rounds: [] })));
  for (let round = 1; round <= ROUNDS; round++) {
    console.error(`calls: round ${round} of ${ROUNDS}`);
    for (const group of groups) {
      for (const { call, inFlight, rounds } of shuffled(group, Math.random)) rounds.push(await measure(call, inFlight));
    }
  }
  await stop(servers);
  const head = ['in flight', '', 'calls/s', 'p50 ms', 'p99 ms', ...LIMITS.map((name) => `of ${name}`)];
  console.log(`\n### A call\n\n${table(head, groups.flatMap(inCells))}`);
}

function inCells(group: Row[]): (string | number)[][] {
  const limits = LIMITS.map((limit) => group.find(({ name }) => name === limit)!.rounds);
  return group.map(({ inFlight, name, rounds }) => {
    const times = [rounds.map(({ p50 }) => p50), rounds.map(({ p99 }) => p99)];
    const ratios = limits.map((limit) => rounds.map(({ rate }, round) => rate / limit[round]!.rate));
    return [inFlight, name, spread(rounds.map(({ rate }) => rate)), ...[...times, ...ratios].map(median).map(digits)];
  });
}

async function benchScaling(url: string, script: string, ours: Call): Promise<void> {
  const delays = [20, 0].map((delay) => ({ delay, rates: SIZES.map((): number[] => []) }));
  for (let round = 1; round <= 3; round++) {
    for (const { delay, rates } of delays) {
      console.error(`scaling: round ${round} of 3, --delay ${delay}`);
      const servers: Command[] = [];
      for (const [i, size] of SIZES.entries()) {
        while (servers.length < size) servers.push(await startServer(url, script, '--delay', String(delay)));
        rates[i]!.push((await measure(ours, 64)).rate);
      }
      await stop(servers);
    }
  }
  const efficiency = (rates: number[][], i: number) => rates[i]!.map((rate, n) => rate / (rates[0]![n]! * SIZES[i]!));
  const head = ['servers', ...delays.flatMap(({ delay }) => [`calls/s, --delay ${delay}`, 'efficiency'])];
  const cells = (i: number) => delays.flatMap(({ rates }) => [spread(rates[i]!), digits(median(efficiency(rates, i)))]);
  console.log(`\n### Scaling out, 64 calls in flight\n\n${table(head, SIZES.map((size, i) => [size, ...cells(i)]))}`);
  const bars = delays[0]!.rates.map((rates) => Math.round(median(rates)));
  console.log('\n```mermaid\nxychart-beta\n  title "Calls a second, 64 in flight, --delay 20"');
  console.log(`  x-axis "servers" [${SIZES}]\n  y-axis "calls/s" 0 --> ${Math.ceil(bars.at(-1)! / 100) * 100}`);
  console.log(`  bar [${bars}]\n\`\`\``);
}

async function main(): Promise<number> {
  const callsAlone = process.argv[2] === 'calls';
  const script = path.join(build(), 'rpc_server.js');
  const broker = await Broker.start();
  const url = broker.url();
  console.log(await heading(callsAlone ? 'npm run bench -- calls' : 'npm run bench', broker));
  const client = await RpcClient.connect({ url });
  const ours = () => client.call(30);
  await benchCalls(url, script, ours);
  if (!callsAlone) await benchScaling(url, script, ours);
  return 0;
}

if (process.argv[2] === 'bare') void bareServer(process.argv[3]!);
else void runScript(main);
