// npm run bench: what a call costs and how servers scale, as ratios measured side by side in one run.
import { connect } from 'amqplib';
import { randomUUID } from 'node:crypto';
import { fib } from '../../src/fib';
import { RpcClient } from '../../src/rpc_client';
import { Broker } from '../support/broker';
import { Command, runScript, until } from '../support/processes';
import { SERVER, page, shuffled, table } from './shared';

const ROUNDS = 15;
const SECONDS = 1; // of each measurement
const SIZES = [1, 2, 4, 8, 16]; // servers

// What this port is held against, by queue: plain amqplib. Whether the server works: reads n, prints it, computes.
const BARE: Record<string, { noAck: boolean; noDelay: boolean; works: boolean }> = {
  "the broker's limit": { noAck: true, noDelay: true, works: false },
  'prefetch 1, acknowledged by hand': { noAck: false, noDelay: true, works: false },
  "the tutorial's programs": { noAck: false, noDelay: true, works: true },
  "the tutorial's, Nagle's algorithm on": { noAck: false, noDelay: false, works: true }, // amqplib's default
};
const LIMITS = Object.keys(BARE).slice(0, 3);

type Call = () => Promise<unknown>;
interface Row { inFlight: number; name: string; call: Call; rates: number[]; times: number[] } // calls/s, ms

/** Keeps `inFlight` calls going for SECONDS, after a tenth of that to warm up. Returns calls/s and the median ms. */
async function measure(call: Call, inFlight: number): Promise<[number, number]> {
  const times: number[] = [];
  const begin = performance.now() + SECONDS * 100;
  const keepCalling = async () => {
    for (let start = performance.now(); start < begin + SECONDS * 1_000; start = performance.now()) {
      await call();
      if (start >= begin) times.push(performance.now() - start);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, keepCalling));
  return [times.length / SECONDS, median(times)];
}

const median = (values: number[]) => [...values].sort((a, b) => a - b)[values.length >> 1]!;
const digits = (value: number) => value.toLocaleString('en', { maximumSignificantDigits: value < 100 ? 2 : 4 });
/** The median of the rounds, and their least and greatest. */
const spread = (values: number[]) =>
  `${digits(median(values))} (${digits(Math.min(...values))} to ${digits(Math.max(...values))})`;

async function bareServer(queue: string): Promise<void> {
  const { noAck, noDelay, works } = BARE[queue]!;
  const channel = await (await connect(process.env.AMQP_URL!, { noDelay })).createChannel();
  if (!noAck) await channel.prefetch(1);
  const ready = Buffer.from('832040');
  const work = (n: number) => (console.log(` [.] fib(${n})`), Buffer.from(String(fib(n))));
  await channel.consume(queue, (request) => {
    const body = works ? work(Number(request!.content)) : ready;
    const { replyTo, correlationId } = request!.properties;
    channel.sendToQueue(replyTo, body, { correlationId, type: 'result', contentType: 'text/plain' });
    if (!noAck) channel.ack(request!);
  }, { noAck });
}

async function bareClient(url: string, queue: string): Promise<Call> {
  const connection = await connect(url, { noDelay: BARE[queue]!.noDelay });
  const channel = await connection.on('error', () => {}).createChannel(); // when the broker ends, at the end
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

/** Starts servers, whose output nobody reads: the process that measures the client has enough to do. */
async function startServers(url: string, queue: string, count: number, ...command: string[]): Promise<Command[]> {
  const connection = await connect(url);
  const channel = await connection.createChannel();
  const { consumerCount } = await channel.assertQueue(queue, { durable: true });
  const args = ['-c', 'exec "$@" > /dev/null', 'sh', 'node', ...command];
  const servers = Array.from({ length: count }, () => new Command('sh', args, { ...process.env, AMQP_URL: url }));
  await until('servers', async () => (await channel.checkQueue(queue)).consumerCount === consumerCount + count);
  await connection.close();
  return servers;
}

const stop = (servers: Command[]) => Promise.all(servers.map((server) => (server.kill('SIGTERM'), server.exit())));

async function benchCalls(url: string, ours: Call): Promise<string> {
  const bare = ['-r', 'ts-node/register', __filename];
  const servers = await startServers(url, 'rpc_queue', 1, ...SERVER);
  const clients = [{ name: 'this port', call: ours }];
  for (const queue of Object.keys(BARE)) {
    servers.push(...(await startServers(url, queue, 1, ...bare, queue)));
    clients.push({ name: queue, call: await bareClient(url, queue) });
  }
  const groups = [1, 64].map((inFlight): Row[] => clients.map((row) => ({ ...row, inFlight, rates: [], times: [] })));
  for (let round = 1; round <= ROUNDS; round++) {
    console.error(`calls: round ${round} of ${ROUNDS}`);
    for (const { call, inFlight, rates, times } of groups.flatMap((group) => shuffled(group, Math.random))) {
      const [rate, time] = await measure(call, inFlight);
      rates.push(rate);
      times.push(time);
    }
  }
  await stop(servers);
  const head = ['in flight', '', 'calls/s', 'median ms', ...LIMITS.map((name) => `of ${name}`)];
  return table(head, groups.flatMap((group) => group.map(({ inFlight, name, rates, times }) => {
    const limits = LIMITS.map((limit) => group.find((row) => row.name === limit)!.rates);
    const ratios = limits.map((limit) => rates.map((rate, round) => rate / limit[round]!));
    return [inFlight, name, spread(rates), ...[times, ...ratios].map(median).map(digits)];
  })));
}

async function benchScaling(url: string, ours: Call, delay: number): Promise<string> {
  const rates = SIZES.map((): number[] => []);
  for (let round = 1; round <= 3; round++) {
    console.error(`scaling: round ${round} of 3, --delay ${delay}`);
    const servers: Command[] = [];
    for (const [i, size] of SIZES.entries()) {
      servers.push(...(await startServers(url, 'rpc_queue', size - servers.length, ...SERVER, '--delay', `${delay}`)));
      rates[i]!.push((await measure(ours, 64))[0]);
    }
    await stop(servers);
  }
  const efficiency = (i: number) => median(rates[i]!.map((rate, round) => rate / (rates[0]![round]! * SIZES[i]!)));
  const rows = SIZES.map((size, i) => [size, spread(rates[i]!), digits(efficiency(i))]);
  return table(['servers', `calls/s, 64 in flight, --delay ${delay}`, 'efficiency'], rows);
}

async function main(): Promise<number> {
  const broker = await Broker.start();
  const client = await RpcClient.connect({ url: broker.url() });
  const using = [broker.url(), () => client.call(30)] as const;
  const tables = [await benchCalls(...using), await benchScaling(...using, 20), await benchScaling(...using, 0)];
  console.log(await page('npm run bench', broker, ...tables));
  return 0;
}

void (process.argv[2] ? bareServer(process.argv[2]) : runScript(main));
