// What bench, soak and cluster share.
import { connect } from 'amqplib';
import { cpus } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { inspectQueue } from '../../src/connection';
import { fib } from '../../src/fib';
import type { RpcClient } from '../../src/rpc_client';
import type { Broker } from '../support/broker';
import { Command, until } from '../support/machine';

/** Starts a server. What it prints goes to /dev/null: to read it would slow down who measures. */
export function startServer(url: string, args: string[] = [], script = 'src/rpc_server.ts') {
  const command = ['exec "$@" > /dev/null', 'sh', 'node', '-r', 'ts-node/register', script];
  return new Command('sh', ['-c', ...command, ...args], { ...process.env, AMQP_URL: url });
}

/** Waits until rpc_queue has so many servers. */
export async function untilServed(url: string, servers: number): Promise<void> {
  const connection = await connect(url);
  const isServed = async () => (await inspectQueue(connection))?.consumerCount === servers;
  await until(`${servers} servers`, isServed, 60_000);
  await connection.close();
}

/** Adds a virtual host. Not by the HTTP API: it needs a plugin, which slows RabbitMQ 4.3 down. */
export async function addVhost(broker: Broker, name: string, queueType = 'classic') {
  await broker.ctl('add_vhost', name, '--default-queue-type', queueType);
  await broker.ctl('set_permissions', '-p', name, 'guest', '.*', '.*', '.*');
  return broker.url(name);
}

/** The broker's version, which need not be that of rabbitmqctl. */
export async function versionOf(broker: Broker): Promise<string> {
  return JSON.parse(await broker.ctl('eval', 'rabbit_misc:version().'));
}

/** Prints tables, and what they were measured on. */
export async function report(broker: Broker, ...tables: object[]): Promise<void> {
  const versions = `RabbitMQ ${await versionOf(broker)}, Node ${process.versions.node}`;
  console.log(`${versions}, ${cpus().length} cores (${cpus()[0]!.model.trim()})`);
  for (const table of tables) console.table(table);
}

export function shuffled<T>(values: T[]): T[] {
  const rest = [...values];
  return values.map(() => rest.splice(Math.floor(Math.random() * rest.length), 1)[0]!);
}

const TIMEOUT = 120_000; // of a call, in ms: nothing that befalls it lasts as long

/** Calls without end, 16 of each client at a time, and what becomes of them. */
export class Calls {
  begun = 0;
  right = 0;
  bad = 0; // wrong, failed, or late
  #longest = 0; // in ms
  #isEnding = false;

  constructor(clients: RpcClient[]) {
    for (const client of clients) {
      for (let i = 0; i < 16; i++) void this.#keepCalling(client);
    }
  }

  async #keepCalling(client: RpcClient): Promise<void> {
    while (!this.#isEnding) {
      const n = this.begun++ % 2_000;
      const start = performance.now();
      const call = client.call(String(n), { timeout: TIMEOUT });
      const reply = await call.catch((error: Error) => error.message);
      const time = Math.round(performance.now() - start);
      this.#longest = Math.max(this.#longest, time);
      if (reply === String(fib(n)) && time < TIMEOUT + 1_000) {
        this.right++;
      } else {
        this.bad++;
        console.error(`fib(${n}) after ${time} ms: ${reply}`);
        await pause(10); // calls that fail at once would leave no time for anything else
      }
    }
  }

  /** Begins no more, waits for those that are underway, unless they are stuck, and counts all. */
  async end() {
    this.#isEnding = true;
    const haveEnded = () => this.begun === this.right + this.bad;
    await until('the last replies', haveEnded, TIMEOUT + 10_000).catch(() => {});
    const { begun, right, bad } = this;
    const stuck = begun - right - bad;
    return { begun, right, 'wrong, failed or late': bad, stuck, 'longest (ms)': this.#longest };
  }
}
