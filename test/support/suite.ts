// What the end-to-end suites share: a broker, a virtual host for each test, the two scripts, the wire's other side.
import { connect, type Channel, type ChannelModel, type ConsumeMessage, type GetMessage } from 'amqplib';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, inject } from 'vitest';
import { fib } from '../../src/fib';
import { RpcClient } from '../../src/rpc_client';
import { Broker } from './broker';
import { Command, killGroup, newFolder, runFolder, until } from './processes';

export const SCRIPTS = ['rpc_server', 'rpc_client'] as const;
export type Script = (typeof SCRIPTS)[number];

/** A virtual host, and all that is started and connected in it. */
export class Scene {
  broker!: Broker;
  vhost = '';
  #commands: Command[] = [];
  #connections: ChannelModel[] = [];
  #clients: RpcClient[] = [];
  #others: Scene[] = [];

  get url(): string {
    return this.broker.url(this.vhost);
  }

  async begin(): Promise<void> {
    this.vhost = await this.broker.freshVhost();
  }

  async end(): Promise<void> {
    for (const other of this.#others.splice(0)) await other.end();
    for (const connection of this.#connections.splice(0)) void connection.close().catch(() => {});
    const commands = this.#commands.splice(0);
    for (const { child } of commands) killGroup(child);
    const clients = this.#clients.splice(0);
    await Promise.all([...commands.map((command) => command.exit()), ...clients.map((client) => client.close())]);
  }

  /** Another virtual host, which ends with this one. */
  async another(): Promise<Scene> {
    const other = new Scene();
    other.broker = this.broker;
    this.#others.push(other);
    await other.begin();
    return other;
  }

  /** Runs any command with this virtual host as the scripts' broker. */
  command(name: string, args: string[], env: NodeJS.ProcessEnv = {}): Command {
    const command = new Command(name, args, { AMQP_URL: this.url, ...env });
    this.#commands.push(command);
    return command;
  }

  /** Runs one of the scripts, as the run's set-up has built it. */
  run(script: Script, args: string[] = [], env: NodeJS.ProcessEnv = {}): Command {
    return this.command(process.execPath, [scriptFile(script), ...args], env);
  }

  /** Runs one of the scripts as a user types it. */
  npx(script: Script, ...args: string[]): Command {
    return this.command('npx', ['ts-node', `src/${script}.ts`, ...args], {
      npm_config_cache: newFolder('npm'), // no file elsewhere
      npm_config_update_notifier: 'false',
      npm_config_call: undefined, // what `npx -c 'npm test'` was told, and would tell npx again
    });
  }

  /** Runs the server and waits until it serves. */
  async server(...args: string[]): Promise<Command> {
    const server = this.run('rpc_server', args);
    await server.shows(/^ \[x\] Awaiting RPC requests$/m);
    return server;
  }

  client(...args: string[]): Command {
    return this.run('rpc_client', args);
  }

  /** The client class, in this process. */
  async rpcClient(options?: Parameters<typeof RpcClient.connect>[0]): Promise<RpcClient> {
    process.env.AMQP_URL = this.url;
    const client = await RpcClient.connect(options);
    this.#clients.push(client);
    return client;
  }

  /** A plain amqplib channel: the other side of the wire. */
  async peer(url = this.url): Promise<{ channel: Channel; connection: ChannelModel }> {
    const connection = await connect(url, { noDelay: true });
    this.#connections.push(connection);
    connection.on('error', () => {});
    const channel = await connection.createChannel();
    channel.on('error', () => {});
    return { channel, connection };
  }

  /** A plain channel that has declared rpc_queue. */
  async queue(options: Parameters<Channel['assertQueue']>[1] = {}): Promise<Channel> {
    const { channel } = await this.peer();
    await channel.assertQueue('rpc_queue', options);
    return channel;
  }

  /** Waits until rpc_queue has so many requests that wait, or so many servers; null where there is to be none. */
  async queueHas(wanted: { messageCount?: number; consumerCount?: number } | null): Promise<void> {
    const { connection } = await this.peer();
    await until(`rpc_queue with ${JSON.stringify(wanted)}`, async () => {
      const channel = await connection.createChannel(); // which a missing queue closes
      channel.on('error', () => {});
      const queue = await channel.checkQueue('rpc_queue').catch(() => null);
      if (!queue || !wanted) return queue === wanted;
      await channel.close();
      return Object.entries(wanted).every(([key, value]) => queue[key as keyof typeof wanted] === value);
    });
  }
}

/** Where the run's set-up has put a script. */
export function scriptFile(script: Script): string {
  return path.join(runFolder(), 'built/src', `${script}.js`);
}

/**
 * A scene for each test of a file, on the broker that all such files share, or on one of the file's own: for those that
 * kill it, freeze it, or do anything else to it that others would notice.
 */
export function suite(startOwnBroker?: () => Promise<Broker>): Scene {
  const it = new Scene();
  beforeAll(async () => {
    it.broker = startOwnBroker ? await startOwnBroker() : new Broker(inject('broker'));
  });
  beforeEach(() => it.begin());
  afterEach(() => it.end());
  afterAll(async () => {
    if (startOwnBroker) await it.broker?.kill();
  });
  return it;
}

export const NUMBERS = ['1', '2', '3', '4', '5', '6', '7', '8'];
export const LOST = /^ \[!\] Lost the connection to RabbitMQ at 127\.0\.0\.1:\d+: .*$/m;
export const BACK = /^ \[!\] Connected to RabbitMQ at 127\.0\.0\.1:\d+\.$/m;

/** Expects a client that was asked for NUMBERS to get each answer. */
export async function expectAnswers(client: Command) {
  expect(await client.exit()).toBe(0);
  const answers = client.stdout.match(/^ \[\.\].*/gm)!.sort();
  expect(answers).toEqual(NUMBERS.map((n) => ` [.] fib(${n}) = ${fib(Number(n))}`));
}

type Answer = (channel: Channel, request: ConsumeMessage) => void;

/** A server of any other port: `answer` gets each request. */
export async function peerServer(it: Scene, answer: Answer): Promise<Channel> {
  const channel = await it.queue();
  await channel.consume('rpc_queue', (request) => request && answer(channel, request), { noAck: true });
  return channel;
}

/** Answers with these bodies and properties, whatever was asked. */
export function replying(...replies: [string | Buffer, object?][]): Answer {
  return (channel, { properties: { replyTo, correlationId } }) => {
    for (const [body, more] of replies) channel.sendToQueue(replyTo, Buffer.from(body), { correlationId, ...more });
  };
}

/** Waits for a message in the queue, and takes it. */
export async function take(channel: Channel, queue: string, deadline?: number): Promise<GetMessage> {
  return until(`a message in ${queue}`, async () => (await channel.get(queue, { noAck: true })) || undefined, deadline);
}

/** Sends each run of eight or more `~` in properties as bytes that are no UTF-8, which amqplib itself never does. */
export function garble({ connection }: ChannelModel): void {
  const { stream } = connection as unknown as { stream: { write(bytes: Buffer): boolean } };
  const write = stream.write.bind(stream);
  const spoil = (text: string) => text.replace(/~{8,}/g, (run) => '\xff'.repeat(run.length));
  const spoilt = (bytes: Buffer) => Buffer.from(spoil(bytes.toString('latin1')), 'latin1');
  stream.write = (bytes) => write(bytes.length > 4_096 ? bytes : spoilt(bytes));
}
