// What the end-to-end suites share: a broker, a virtual host for each test, the two scripts, the wire's other side.
import { connect, type Channel, type ChannelModel, type ConsumeMessage, type GetMessage } from 'amqplib';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect } from 'vitest';
import { RpcClient, type RpcError } from '../../src/rpc_client';
import { Broker } from './broker';
import { Command, count, runFolder, until } from './processes';
import { Proxy, type Faults } from './proxy';

export const SCRIPTS = ['rpc_server', 'rpc_client'] as const;
export type Script = (typeof SCRIPTS)[number];
type Answer = (channel: Channel, request: ConsumeMessage) => void;
const PATIENCE = 600_000; // ms for calls that are answered, however slow the machine is

/** Where the run's set-up has put a file of src or test. */
export const built = (file: string) => path.join(runFolder(), 'built', `${file}.js`);

/** A virtual host, and all that is started and connected in it. */
export class Scene {
  broker!: Broker;
  vhost = '';
  #ends: (() => unknown)[] = [];

  get url(): string {
    return this.broker.url(this.vhost);
  }

  async begin(broker: Broker): Promise<this> {
    this.broker = broker;
    this.vhost = await broker.addVhost();
    return this;
  }

  readonly end = () => Promise.all(this.#ends.splice(0).map((end) => end()));

  /** Another virtual host, which ends with this one. */
  async another(): Promise<Scene> {
    const other = new Scene();
    this.#ends.push(() => other.end());
    return other.begin(this.broker);
  }

  /** Runs any command with this virtual host as the scripts' broker, and no CA that Node does not know by itself. */
  command(name: string, args: string[], env: NodeJS.ProcessEnv = {}): Command {
    const own = { AMQP_URL: this.url, NODE_EXTRA_CA_CERTS: undefined, ...env }; // to read many takes 40 ms each time
    const command = new Command(name, args, { ...process.env, ...own });
    this.#ends.push(() => (command.kill('SIGKILL'), command.exit()));
    return command;
  }

  /** Runs one of the scripts, as the run's set-up has built it. */
  run(script: Script, args: string[] = [], AMQP_URL = this.url, env: NodeJS.ProcessEnv = {}): Command {
    return this.command(process.execPath, [built(`src/${script}`), ...args], { AMQP_URL, ...env });
  }

  /** Runs the server and waits until it serves. */
  async serverAt(url: string, ...args: string[]): Promise<Command> {
    const server = this.run('rpc_server', args, url);
    await server.shows(/^ \[x\] Awaiting RPC requests$/m);
    return server;
  }

  readonly server = (...args: string[]) => this.serverAt(this.url, ...args);
  readonly client = (...args: string[]) => this.run('rpc_client', ['--timeout', `${PATIENCE}`, ...args]);

  /** The client class, in this process, and what it logs. */
  async rpcClient(url = this.url) {
    const log: string[] = [];
    const client = await RpcClient.connect({ url, log: (line) => log.push(line) });
    this.#ends.push(() => client.close());
    const call = (n: number, timeout = PATIENCE) => client.call(n, { timeout });
    const says = (pattern: RegExp) => until(`${pattern}`, () => pattern.test(log.join('\n')));
    return { client, call, log, says };
  }

  /** A line to the broker that fails in the ways that it is told to. */
  async proxy(faults: Faults = {}, url = this.url, host?: string): Promise<Proxy> {
    const proxy = await Proxy.start(url, host);
    proxy.faults = faults;
    this.#ends.push(() => proxy.refuse());
    return proxy;
  }

  /** A plain amqplib channel: the other side of the wire. */
  async peer(options = { noDelay: true }): Promise<{ channel: Channel; connection: ChannelModel }> {
    const connection = await connect(this.url, options);
    this.#ends.push(() => void connection.close().catch(() => {}));
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

  /** A server of any other port: `answer` gets each request. */
  async peerServer(answer: Answer): Promise<Channel> {
    const channel = await this.queue();
    await channel.consume('rpc_queue', (request) => request && answer(channel, request), { noAck: true });
    return channel;
  }

  /** Waits until rpc_queue has so many requests that wait, or so many servers. */
  async queueHas(wanted: { messageCount?: number; consumerCount?: number }): Promise<void> {
    const { channel } = await this.peer();
    await until(`rpc_queue with ${JSON.stringify(wanted)}`, async () => {
      const queue = await channel.checkQueue('rpc_queue');
      return JSON.stringify({ ...queue, ...wanted }) === JSON.stringify(queue);
    });
  }

  /** What the broker says of a queue, or of all of them. */
  readonly queueDetails = (name = '') => this.broker.api('GET', `queues/${encodeURIComponent(this.vhost)}/${name}`);
}

/**
 * A scene for each test of a file, on the broker that all such files share, or on one of the file's own: for those that
 * kill it, freeze it, or do anything else to it that others would notice.
 */
export function suite(startOwnBroker?: () => Promise<Broker>): Scene {
  const it = new Scene();
  let broker: Broker;
  const shared = async () => new Broker(JSON.parse(process.env.RPC_BROKER!));
  beforeAll(async () => void (broker = await (startOwnBroker ?? shared)()));
  beforeEach(async () => void (await it.begin(broker)));
  afterEach(() => it.end());
  afterAll(() => startOwnBroker && broker?.kill());
  return it;
}

export const LOST = /^(?: \[!\] )?Lost the connection to RabbitMQ at 127\.0\.0\.1:\d+: .*$/m;
export const BACK = /^(?: \[!\] )?Connected to RabbitMQ at 127\.0\.0\.1:\d+\.$/m;
/** What a client that is answered may say: nothing, or on a slow machine that there is no reply for a second. */
export const QUIET = expect.not.stringMatching(/^(?! \[!\] No reply for a second: ).+$/m);

/** Expects output to tell in a line that the connection is back, and in one, and one more a minute, that it is lost. */
export function expectOneLineEach(output: string, away = 0): void {
  expect(count(output, BACK)).toBe(1);
  expect(count(output, LOST)).toBeGreaterThanOrEqual(1);
  expect(count(output, LOST)).toBeLessThanOrEqual(1 + Math.floor(away / 40_000)); // ms: 30 pauses of 1.5 s are short
}

export const errorOf = (call: Promise<unknown>) => call.then(() => undefined, (error: RpcError) => error);

/** Answers with these bodies and properties, whatever was asked. */
export function replying(...replies: [string | Buffer, object?][]): Answer {
  return (channel, { properties: { replyTo, correlationId } }) => {
    for (const [body, more] of replies) channel.sendToQueue(replyTo, Buffer.from(body), { correlationId, ...more });
  };
}

/** Waits for a message in the queue, and takes it. */
export const take = (channel: Channel, queue: string): Promise<GetMessage> =>
  until(`a message in ${queue}`, async () => (await channel.get(queue, { noAck: true })) || undefined);
