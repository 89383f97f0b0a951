// What bench, soak and cluster share.
import { connect } from 'amqplib';
import { execFileSync } from 'node:child_process';
import { cpus } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { inspectQueue } from '../../src/connection';
import { fib } from '../../src/fib';
import { RpcClient } from '../../src/rpc_client';
import type { Broker } from '../support/broker';
import { Command, until } from '../support/processes';

/** Starts a server, whose output nobody reads: who measures has enough to do. */
export function startServer(AMQP_URL: string, args: string[] = [], script = 'src/rpc_server.ts'): Command {
  const command = ['-c', 'exec "$@" > /dev/null', 'sh', 'node', '-r', 'ts-node/register', script, ...args];
  return new Command('sh', command, { ...process.env, AMQP_URL });
}

/** Adds a virtual host. Not by the HTTP API: its plugin alone costs RabbitMQ 4.3 up to half of its calls/s. */
export async function addVhost(broker: Broker, name: string, queueType = 'classic'): Promise<string> {
  await broker.ctl('add_vhost', name, '--default-queue-type', queueType);
  await broker.ctl('set_permissions', '-p', name, 'guest', '.*', '.*', '.*');
  return broker.url(name);
}

/** Waits until so many servers consume. */
export async function untilServed(url: string, servers: number, deadline?: number): Promise<void> {
  const connection = (await connect(url)).on('error', () => {}); // when the broker ends, at the end
  await until('servers', async () => (await inspectQueue(connection))?.consumerCount === servers, deadline);
  await connection.close();
}

/** What ends the servers and clients that are there, in the order that they came. */
export const ends: (() => unknown)[] = [];
export const endAll = (after = 0) => Promise.all(ends.splice(after).map((end) => end()));

export async function startServers(url: string, count: number, ...command: [args?: string[], script?: string]) {
  const servers = Array.from({ length: count }, () => startServer(url, ...command));
  ends.push(...servers.map((server) => () => (server.kill('SIGTERM'), server.exit())));
  await untilServed(url, count);
}

/** Connects so many clients, 20 at a time, and has the first call of each answered: the next ones may be quicker. */
export async function connectClients(url: string, count: number): Promise<RpcClient[]> {
  const clients: RpcClient[] = [];
  const connectOne = async () => {
    const client = await RpcClient.connect({ url });
    clients.push(client);
    ends.push(() => client.close());
    await client.call(30);
  };
  while (clients.length < count) await Promise.all(Array(Math.min(20, count - clients.length)).fill(0).map(connectOne));
  return clients;
}

/** A Markdown page that says what was run, on what, and when, and then what came out. */
export async function page(command: string, broker: Broker, ...parts: string[]): Promise<string> {
  const version = JSON.parse(await broker.ctl('eval', 'rabbit_misc:version().')); // the broker's, not rabbitmqctl's
  const on = `RabbitMQ ${version}, Node ${process.versions.node}, ${cpus().length} cores (${cpus()[0]!.model.trim()})`;
  return [`\`${command}\`, ${on}, ${new Date().toISOString().slice(0, 10)}:`, ...parts].join('\n\n');
}

export type Row = (string | number)[];

/** A Markdown table. */
export const table = (head: Row, rows: Row[]) =>
  [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');

/** A copy in an order at random (Fisher and Yates). */
export function shuffled<T>(values: readonly T[], random = Math.random): T[] {
  const rest = [...values];
  return values.map(() => rest.splice(Math.floor(random() * rest.length), 1)[0]!);
}

/** MB that this process holds once its garbage is collected, and that another one does, its garbage with it. */
export function memoryWith({ child }: Command): [here: number, there: number] {
  setFlagsFromString('--expose-gc');
  runInNewContext('gc')();
  const { heapUsed, external } = process.memoryUsage();
  const kiB = Number(execFileSync('ps', ['-o', 'rss=', '-p', String(child.pid)]));
  return [(heapUsed + external) / 1e6, kiB * 1_024 / 1e6];
}

/** Calls without end, so many of each client at a time, and what becomes of them. */
export class Calls {
  readonly outcomes: Record<string, number> = { right: 0, wrong: 0, failed: 0, late: 0, stuck: 0 };
  done = 0;
  #longest = 0; // ms
  #ended = false;
  readonly #calling: Promise<unknown>;

  /** `timeout`: of each call, in ms */
  constructor(clients: RpcClient[], inFlight: number, readonly timeout: number) {
    const all: RpcClient[] = Array(inFlight).fill(clients).flat();
    this.#calling = Promise.all(all.map(async (client, i) => {
      for (let n = i; !this.#ended; n = (n + all.length) % 2_000) await this.#call(client, n);
    }));
  }

  /** Begins no more, and waits for those in flight. */
  readonly end = () => ((this.#ended = true), this.#calling);

  readonly allRight = () => this.outcomes.right === this.done && this.outcomes.late === 0;

  table(...more: Row[]): string {
    const longest = ['longest call', `${Math.round(this.#longest)} ms`];
    return table(['calls', this.done], [...Object.entries(this.outcomes), longest, ...more]);
  }

  async #call(client: RpcClient, n: number): Promise<void> {
    const start = performance.now();
    const settled = new AbortController();
    const call = client.call(n, { timeout: this.timeout })
      .then((value) => [value === fib(n) ? 'right' : 'wrong'], ({ message }) => ['failed', `failed: ${message}`]);
    const outcome = await Promise.race([call, pause(this.timeout + 10_000, ['stuck'], settled)]);
    settled.abort();
    const time = performance.now() - start;
    if (time > this.timeout + 1_000) outcome.push('late');
    for (const name of outcome) this.outcomes[name] = (this.outcomes[name] ?? 0) + 1;
    this.done++;
    this.#longest = Math.max(this.#longest, time);
    if (outcome[0] === 'failed') await pause(10); // a client that has ended fails all at once: no time for others
  }
}

/** Makes one call; `i` says which of those that are in flight at a time. */
export type Call = (i: number) => Promise<unknown>;

/** Keeps calls in flight, first for a tenth of the time to warm up. Returns calls/s, median and 99th percentile ms. */
export async function measure(call: Call, inFlight: number, seconds = 0.5): Promise<[number, number, number]> {
  const times: number[] = [];
  const begin = performance.now() + seconds * 100;
  const keepCalling = async (_: unknown, i: number) => {
    for (let start = performance.now(); start < begin + seconds * 1_000; start = performance.now()) {
      await call(i);
      if (start >= begin) times.push(performance.now() - start);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, keepCalling));
  return [times.length / seconds, median(times), quantile(times, 0.99)];
}

type Columns<Values> = { [Value in keyof Values]: number[] };

/**
 * Measures each case once a round, in an order at random, so that what else the machine does befalls all of them alike.
 * Returns a table's rows: `toRow` gets what was measured of a case in all rounds, the case, and what was of all cases.
 */
export async function rounds<Case, Values extends number[]>(
  part: string, times: number, cases: Case[], measureCase: (one: Case) => Promise<[...Values]>,
  toRow: (measured: Columns<Values>, one: Case, all: Columns<Values>[]) => Row, first?: 'in order', // the first round
): Promise<Row[]> {
  const all = cases.map(() => [] as number[][] as Columns<Values>);
  for (let round = 1; round <= times; round++) {
    console.error(`${part}: round ${round} of ${times}`);
    for (const i of shuffled([...cases.keys()], round === 1 && first ? () => 0 : Math.random)) {
      const before = ends.length;
      const values = await measureCase(cases[i]!);
      await endAll(before); // what the case has started
      values.forEach((value, column) => (all[i]![column] ??= []).push(value));
    }
  }
  return all.map((measured, i) => toRow(measured, cases[i]!, all));
}

/** The value that `share` of the values are below. */
const quantile = (values: number[], share: number) =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length * share)]!;
export const median = (values: number[]) => quantile(values, 0.5);
export const digits = (value: number) =>
  value.toLocaleString('en', { maximumSignificantDigits: Math.min(4, Math.max(2, Math.ceil(Math.log10(value)))) });
/** The median of the rounds, and their least and greatest. */
export const spread = (values: number[]) =>
  `${digits(median(values))} (${digits(Math.min(...values))} to ${digits(Math.max(...values))})`;
/** The median of the rounds' ratios. */
export const ratio = (values: number[], others: number[]) =>
  digits(median(values.map((value, round) => value / others[round]!)));
export const total = (values: number[]) => values.reduce((sum, value) => sum + value) || 'none';
