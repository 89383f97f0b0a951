// What bench, soak and cluster share.
import { connect } from 'amqplib';
import { execFileSync } from 'node:child_process';
import { symlinkSync } from 'node:fs';
import { cpus } from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fib } from '../../src/fib';
import type { RpcClient } from '../../src/rpc_client';
import type { Broker } from '../support/broker';
import { ROOT, newFolder } from '../support/processes';

/** Builds src as JavaScript, which starts faster than ts-node does, and returns its folder. */
export function build(): string {
  const folder = newFolder('built');
  execFileSync('node_modules/.bin/tsc', ['--outDir', folder], { cwd: ROOT });
  symlinkSync(path.join(ROOT, 'node_modules'), path.join(folder, 'node_modules'));
  return folder;
}

/** What was run, on what, and when. */
export async function heading(command: string, broker: Broker): Promise<string> {
  const connection = await connect(broker.url());
  const versions = `RabbitMQ ${connection.connection.serverProperties.version}, Node ${process.version.slice(1)}`;
  await connection.close();
  const cores = `${cpus().length} cores (${cpus()[0]!.model.trim()})`;
  return `\`${command}\`, ${versions}, ${cores}, ${new Date().toISOString().slice(0, 10)}`;
}

/** A copy in an order at random (Fisher and Yates). */
export function shuffled<T>(values: readonly T[], random: () => number): T[] {
  const rest = [...values];
  return values.map(() => rest.splice(Math.floor(random() * rest.length), 1)[0]!);
}

/** Calls without end, and what became of them. */
export class Calls {
  readonly outcomes: Record<string, number> = { right: 0, wrong: 0, failed: 0, late: 0, stuck: 0 };
  done = 0;
  longest = 0; // ms
  #begun = 0;

  /** `total` may be set to 0 to end them. */
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
    return [['calls', this.done], ...Object.entries(this.outcomes), ['longest call', `${Math.round(this.longest)} ms`]];
  }

  async #call(client: RpcClient, n: number): Promise<void> {
    const start = performance.now();
    const settled = new AbortController();
    const call = client.call(n, { timeout: this.timeout })
      .then((value) => (value === fib(n) ? 'right' : 'wrong'), ({ message }: Error) => `failed: ${message}`)
      .finally(() => settled.abort());
    const stuck = pause(this.timeout + 10_000, 'stuck', settled).catch(() => call);
    const outcome = await Promise.race([call, stuck]);
    const time = performance.now() - start;
    this.done++;
    this.longest = Math.max(this.longest, time);
    const count = (name: string) => (this.outcomes[name] = (this.outcomes[name] ?? 0) + 1);
    count(outcome);
    if (outcome !== 'stuck' && time > this.timeout + 1_000) count('late');
    if (!outcome.startsWith('failed: ')) return;
    count('failed');
    await pause(10); // a client that has ended fails them at once, and would leave no time for anything else
  }
}
