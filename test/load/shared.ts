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
