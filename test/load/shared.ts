// What bench, soak and cluster share.
import { cpus } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { fib } from '../../src/fib';
import type { RpcClient } from '../../src/rpc_client';
import type { Broker } from '../support/broker';
import { Command } from '../support/processes';

/** How node starts the server. */
export const SERVER = ['-r', 'ts-node/register', 'src/rpc_server.ts'];

/** A Markdown page that says what was run, on what, and when, and then what came out. */
export async function page(command: string, broker: Broker, ...parts: string[]): Promise<string> {
  const version = JSON.parse(await broker.ctl('eval', 'rabbit_misc:version().')); // the broker's, not rabbitmqctl's
  const on = `RabbitMQ ${version}, Node ${process.versions.node}, ${cpus().length} cores (${cpus()[0]!.model.trim()})`;
  const heading = `\`${command}\`, ${on}, ${new Date().toISOString().slice(0, 10)}:`;
  return [heading, ...parts].join('\n\n');
}

/** A Markdown table. */
export function table(head: (string | number)[], rows: (string | number)[][]): string {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** A copy in an order at random (Fisher and Yates). */
export function shuffled<T>(values: readonly T[], random: () => number): T[] {
  const rest = [...values];
  return values.map(() => rest.splice(Math.floor(random() * rest.length), 1)[0]!);
}

/** Bytes that this process holds once its garbage is collected. */
export function heapInUse(): number {
  setFlagsFromString('--expose-gc');
  runInNewContext('gc')();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

/** Bytes of memory that a process holds, its garbage with it. */
export const rss = async ({ child }: Command) =>
  Number((await new Command('ps', ['-o', 'rss=', '-p', String(child.pid)]).end()).stdout) * 1_024;

/** Calls without end, and what became of them. */
export class Calls {
  readonly outcomes: Record<string, number> = { right: 0, wrong: 0, failed: 0, late: 0, stuck: 0 };
  done = 0;
  #begun = 0;
  #longest = 0; // ms

  /** `timeout` of each call in ms; `total` may be set to 0 to end them. */
  constructor(readonly timeout: number, public total = Infinity) {}

  async keepCalling(client: RpcClient, inFlight: number): Promise<void> {
    const oneAfterTheOther = async () => {
      while (this.#begun < this.total) await this.#call(client, this.#begun++ % 2_000);
    };
    await Promise.all(Array.from({ length: inFlight }, oneAfterTheOther));
  }

  get allRight(): boolean {
    return this.outcomes.right === this.done && this.outcomes.late === 0;
  }

  get rows(): [string, string | number][] {
    return [...Object.entries(this.outcomes), ['longest call', `${Math.round(this.#longest)} ms`]];
  }

  async #call(client: RpcClient, n: number): Promise<void> {
    const start = performance.now();
    const settled = new AbortController();
    const call = client.call(n, { timeout: this.timeout })
      .then((value) => (value === fib(n) ? 'right' : 'wrong'), ({ message }: Error) => `failed: ${message}`)
      .finally(() => settled.abort());
    const outcome = await Promise.race([call, pause(this.timeout + 10_000, 'stuck', settled).catch(() => call)]);
    const time = performance.now() - start;
    this.done++;
    this.#longest = Math.max(this.#longest, time);
    const failed = outcome.startsWith('failed: ');
    const names = [outcome, failed && 'failed', outcome !== 'stuck' && time > this.timeout + 1_000 && 'late'];
    for (const name of names) if (name) this.outcomes[name] = (this.outcomes[name] ?? 0) + 1;
    if (failed) await pause(10); // a client that has ended fails all at once, and would leave no time for others
  }
}
