// npm run bench: what a user of this program pays, as ratios measured side by side in one run. Tables on standard
// output, progress on standard error.
import { connect } from 'amqplib';
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { cpSync, existsSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import path from 'node:path';
import { fib } from '../../src/fib';
import { Broker } from '../support/broker';
import { Command, ROOT, newFolder, runScript, table, until } from '../support/processes';

const DIST = path.join(ROOT, 'dist');
const ROUNDS = 5;

type Call = () => Promise<unknown>;

interface Rate {
  rate: number; // calls a second
  p50: number; // ms
  p99: number; // ms
}

/** Keeps `inFlight` calls going for `seconds`, after a tenth of that to warm up. */
async function measure(call: Call, inFlight: number, seconds: number): Promise<Rate> {
  const times: number[] = [];
  const begin = performance.now() + seconds * 100;
  const end = begin + seconds * 1_000;
  const keepCalling = async () => {
    for (let start = performance.now(); start < end; start = performance.now()) {
      await call();
      if (start >= begin) times.push(performance.now() - start);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, keepCalling));
  times.sort((a, b) => a - b);
  return { rate: times.length / seconds, p50: times[times.length >> 1]!, p99: times[Math.floor(times.length * 0.99)]! };
}

const sorted = (values: number[]) => [...values].sort((a, b) => a - b);
const median = (values: number[]) => sorted(values)[values.length >> 1]!;
const digits = (value: number) => value.toLocaleString('en', { maximumSignificantDigits: value < 100 ? 2 : 4 });
/** The median of the rounds, and their least and greatest. */
const spread = (values: number[]) => `${digits(median(values))} (${digits(Math.min(...values))} to ${digits(Math.max(...values))})`;

function progress(line: string): void {
  process.stderr.write(process.stderr.isTTY ? `\r\u001b[K${line}` : `${line}\n`);
}

// The limit's server and client: the same messages through the same queues, and nothing else.

async function limitServer(): Promise<void> {
  const connection = await connect(process.env.AMQP_URL!, { noDelay: true });
  const channel = await connection.createChannel();
  await channel.assertQueue('limit_queue', { durable: true });
  const reply = Buffer.from('832040');
  await channel.consume('limit_queue', (request) => {
    const { replyTo, correlationId } = request!.properties;
    channel.sendToQueue(replyTo, reply, { correlationId, type: 'result', contentType: 'text/plain' });
  }, { noAck: true });
  console.log('Awaiting');
}

async function limitClient(url: string): Promise<Client> {
  const connection = await connect(url, { noDelay: true });
  const channel = await connection.createChannel();
  const { queue } = await channel.assertQueue('', { exclusive: true, durable: false });
  const pending = new Map<string, (value: unknown) => void>();
  await channel.consume(queue, (reply) => pending.get(reply!.properties.correlationId)!(reply), { noAck: true });
  const request = Buffer.from('30');
  const call = async () => {
    const correlationId = randomUUID();
    const answer = new Promise((resolve) => pending.set(correlationId, resolve));
    channel.sendToQueue('limit_queue', request, {
      contentType: 'text/plain', correlationId, replyTo: queue, mandatory: true, expiration: 30_000,
    });
    await answer;
    pending.delete(correlationId);
  };
  return { call, close: () => connection.close() };
}

interface Client {
  call: Call;
  close(): Promise<void>;
}

async function client(folder: string, url: string): Promise<Client> {
  process.env.AMQP_URL = url;
  const { RpcClient } = require(path.join(folder, 'rpc_client')) as typeof import('../../src/rpc_client');
  const rpc = await RpcClient.connect();
  return { call: () => rpc.call(30), close: () => rpc.close() };
}

/** A copy of what was built, with the socket options of the tutorial's other Node ports. */
function withNagle(): string {
  const folder = newFolder('nagle');
  cpSync(DIST, folder, { recursive: true });
  symlinkSync(path.join(ROOT, 'node_modules'), path.join(folder, 'node_modules'));
  const file = path.join(folder, 'connection.js');
  const [before, after, ...more] = readFileSync(file, 'utf8').split('noDelay: true');
  if (after === undefined || more.length > 0) throw new Error('connection.js has not one noDelay: true');
  writeFileSync(file, `${before}noDelay: false${after}`);
  return folder;
}

/** Servers that log to files: the process that measures the client is not to read what they write, too. */
async function startServers(count: number, folder: string, url: string, ...args: string[]): Promise<Command[]> {
  const start = async () => {
    const log = path.join(newFolder('server'), 'log');
    const command = ['exec "$@" > "$0"', log, 'node', path.join(folder, 'rpc_server.js'), ...args];
    const server = new Command('sh', ['-c', ...command], { AMQP_URL: url });
    await until('a server', () => existsSync(log) && readFileSync(log, 'utf8').includes('Awaiting'));
    return server;
  };
  return Promise.all(Array.from({ length: count }, start));
}

async function stop(servers: Command[]): Promise<void> {
  for (const server of servers) server.kill('SIGTERM');
  await Promise.all(servers.map((server) => server.exit()));
}

async function brokerVersion(broker: Broker): Promise<string> {
  const connection = await connect(broker.url());
  const version = String(connection.connection.serverProperties.version);
  await connection.close();
  return version;
}

async function benchCalls(broker: Broker): Promise<void> {
  await broker.addVhost('nagle');
  const nagle = withNagle();
  const servers = [...(await startServers(1, DIST, broker.url())), ...(await startServers(1, nagle, broker.url('nagle')))];
  const limit = new Command('node_modules/.bin/ts-node', [__filename, 'limit-server'], { AMQP_URL: broker.url() });
  await limit.shows(/Awaiting/);
  const variants = {
    "the broker's limit": await limitClient(broker.url()),
    'this port': await client(DIST, broker.url()),
    "this port, Nagle's algorithm on": await client(nagle, broker.url('nagle')),
  };
  const results = new Map<string, Rate[]>();
  for (let round = 0; round < ROUNDS; round++) {
    for (const inFlight of [1, 64]) {
      for (const [name, { call }] of Object.entries(variants)) {
        progress(`calls: round ${round + 1} of ${ROUNDS}, ${inFlight} in flight, ${name}`);
        const key = `${inFlight} ${name}`;
        results.set(key, [...(results.get(key) ?? []), await measure(call, inFlight, 2)]);
      }
    }
  }
  await Promise.all(Object.values(variants).map(({ close }) => close()));
  await stop([...servers, limit]);
  console.log('\n### A call\n');
  console.log(table(['in flight', '', 'calls/s', 'p50 ms', 'p99 ms', 'of the limit'], [1, 64].flatMap((inFlight) =>
    Object.keys(variants).map((name) => {
      const rounds = results.get(`${inFlight} ${name}`)!;
      const limits = results.get(`${inFlight} the broker's limit`)!;
      const of = (key: keyof Rate) => rounds.map((round) => round[key]);
      return [inFlight, name, spread(of('rate')), digits(median(of('p50'))), digits(median(of('p99'))),
        digits(median(rounds.map((round, i) => round.rate / limits[i]!.rate)))];
    }))));
}

async function benchScaling(broker: Broker, delay: number): Promise<void> {
  const sizes = [1, 2, 4, 8, 16];
  const results = new Map<number, number[]>(sizes.map((size) => [size, []]));
  const { call, close } = await client(DIST, broker.url());
  for (let round = 0; round < 3; round++) {
    const servers: Command[] = [];
    for (const size of sizes) {
      servers.push(...(await startServers(size - servers.length, DIST, broker.url(), '--delay', String(delay))));
      progress(`scaling, --delay ${delay}: round ${round + 1} of 3, ${size} servers`);
      results.get(size)!.push((await measure(call, 64, 2)).rate);
    }
    await stop(servers);
  }
  await close();
  const one = results.get(1)!;
  const efficiency = (size: number) => median(results.get(size)!.map((rate, round) => rate / (one[round]! * size)));
  console.log(`\n### Scaling out, 64 calls in flight, --delay ${delay}\n`);
  console.log(table(['servers', 'calls/s', 'efficiency'], sizes.map((size) => [size, spread(results.get(size)!), digits(efficiency(size))])));
  if (delay > 0) {
    const rates = sizes.map((size) => Math.round(median(results.get(size)!)));
    console.log(`\n\`\`\`mermaid\nxychart-beta\n  title "Calls a second, 64 in flight, --delay ${delay}"`);
    console.log(`  x-axis "servers" [${sizes}]\n  y-axis "calls/s" 0 --> ${Math.ceil(rates.at(-1)! / 100) * 100}\n  bar [${rates}]\n\`\`\``);
  }
}

/** The tutorial's function. */
function recursive(n: number): number {
  return n < 2 ? n : recursive(n - 1) + recursive(n - 2);
}

function benchFib(): void {
  const time = (work: () => unknown) => {
    const begin = performance.now();
    let runs = 0;
    do {
      work();
      runs++;
    } while (performance.now() - begin < 20);
    return (performance.now() - begin) / runs;
  };
  const inUnits = (ms: number) => (ms < 1 ? `${digits(ms * 1_000)} µs` : `${digits(ms)} ms`);
  time(() => recursive(25)); // compiled by then, as fib is
  const rows = [10, 20, 30, 40, 100, 1_000, 10_000, 100_000, 1_000_000].map((n) => {
    progress(`fib(${n})`);
    const rounds = <T>(work: () => T) => median(Array.from({ length: ROUNDS }, () => time(work)));
    const value = fib(n);
    return [
      n.toLocaleString('en'),
      inUnits(rounds(() => fib(n))),
      inUnits(rounds(() => value.toString())),
      n <= 30 ? inUnits(rounds(() => recursive(n))) : n === 40 ? inUnits(time(() => recursive(n))) : '',
    ];
  });
  console.log('\n### fib\n');
  console.log(table(['n', 'fast doubling', 'to decimal', "the tutorial's recursion"], rows));
}

async function benchStartUp(broker: Broker): Promise<void> {
  const commands: [string, string, string[]][] = [
    ['npx ts-node src/rpc_client.ts 30', 'npx', ['ts-node', 'src/rpc_client.ts']],
    ['node_modules/.bin/ts-node src/rpc_client.ts 30', 'node_modules/.bin/ts-node', ['src/rpc_client.ts']],
    ['node dist/rpc_client.js 30', 'node', ['dist/rpc_client.js']],
  ];
  const servers = await startServers(1, DIST, broker.url());
  /** From the command to the line that is awaited, in ms. */
  const time = async (command: string, args: string[], line: RegExp) => {
    const begin = performance.now();
    const process = new Command(command, args, { AMQP_URL: broker.url() });
    await new Promise<void>((resolve) => process.child.stdout!.on('data', () => line.test(process.stdout) && resolve()));
    const ms = performance.now() - begin;
    await process.exit();
    return ms;
  };
  const answers = commands.map((): number[] => []);
  const loads = commands.map((): number[] => []);
  for (let round = 0; round < 9; round++) {
    for (const [i, [name, command, args]] of commands.entries()) {
      progress(`start-up: round ${round + 1} of 9, ${name}`);
      answers[i]!.push(await time(command, [...args, '30'], /Got 832040/));
      loads[i]!.push(await time(command, [...args, '--help'], /Usage/));
    }
  }
  await stop(servers);
  console.log('\n### Start-up\n');
  console.log(table(['command', 'to the answer, ms', 'of which connecting and asking, ms'], commands.map(([name], i) => [
    `\`${name}\``, spread(answers[i]!), digits(Math.max(0, median(answers[i]!.map((ms, round) => ms - loads[i]![round]!)))),
  ])));
}

async function benchMemory(broker: Broker): Promise<void> {
  const [server] = await startServers(1, DIST, broker.url());
  const code = `const { RpcClient } = require('./dist/rpc_client');
    (async () => {
      const client = await RpcClient.connect();
      for (const calls of [0, 100_000, 100_000, 100_000]) {
        let left = calls;
        const keepCalling = async () => { while (left-- > 0) await client.call(30); };
        await Promise.all(Array.from({ length: 64 }, keepCalling));
        gc();
        console.log('reached', process.memoryUsage().heapUsed / 2 ** 20);
        await new Promise((resolve) => process.stdin.once('data', resolve));
      }
      process.exit();
    })();`;
  const asking = new Command('node', ['--expose-gc', '-e', code], { AMQP_URL: broker.url() }, 'pipe');
  const size = ({ child }: Command) => digits(Number(execFileSync('ps', ['-o', 'rss=', '-p', String(child.pid)])) / 1_024);
  const rows: (string | number)[][] = [];
  for (const [i, calls] of ['0', '100,000', '200,000', '300,000'].entries()) {
    progress(`memory: ${calls} calls`);
    await asking.shows(/reached/, { count: i + 1, deadline: 120_000 });
    const heap = asking.stdout.trim().split(/\s+/).at(-1);
    rows.push([calls, size(server!), size(asking), digits(Number(heap))]);
    asking.child.stdin!.write('\n');
  }
  await asking.exit();
  await stop([server!]);
  console.log('\n### Memory\n');
  console.log(table(['calls made', 'server, resident, MB', 'client, resident, MB', 'client, heap in use, MB'], rows));
}

async function main(): Promise<number> {
  const begin = performance.now();
  execFileSync('npm', ['run', 'build'], { cwd: ROOT, stdio: 'ignore' });
  const broker = await Broker.start();
  console.log(`RabbitMQ ${await brokerVersion(broker)}, Node ${process.version.slice(1)}, ${cpus().length} cores (${cpus()[0]!.model.trim()}), ${new Date().toISOString().slice(0, 10)}`);
  await benchCalls(broker);
  await benchScaling(broker, 20);
  await benchScaling(broker, 0);
  benchFib();
  await benchStartUp(broker);
  await benchMemory(broker);
  progress(`done in ${Math.round((performance.now() - begin) / 1_000)} s\n`);
  return 0;
}

if (process.argv[2] === 'limit-server') void limitServer();
else void runScript(main);
