// What most tests use: a virtual host of their own, with servers, clients, and amqplib beside them.
import { connect, type Channel, type ConsumeMessage, type GetMessage, type Options } from 'amqplib';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, vi } from 'vitest';
import { RpcClient, type RpcError } from '../../src/rpc_client';
import { Broker } from './broker';
import { Command, runFolder, until } from './machine';
import { Proxy, type Faults } from './proxy';

export const SCRIPTS = ['rpc_server', 'rpc_client'] as const;
export type Script = (typeof SCRIPTS)[number];
type Answer = (channel: Channel, request: ConsumeMessage) => void;
const PATIENCE = 600_000; // ms, for calls that are answered however slow the machine is

/** Where the run's set-up has put a file of src or test. */
export const built = (file: string) => path.join(runFolder(), 'built', `${file}.js`);

export class Vhost {
  broker!: Broker;
  name = '';
  #ends: (() => unknown)[] = [];

  get url(): string {
    return this.broker.url(this.name);
  }

  readonly end = () => Promise.all(this.#ends.splice(0).map((end) => end()));

  /** Runs a command whose AMQP_URL names this virtual host. */
  runCommand(name: string, args: string[], env: NodeJS.ProcessEnv = {}): Command {
    // Node would read such a file at each start, which takes 40 ms where it names many CAs.
    const own = { AMQP_URL: this.url, NODE_EXTRA_CA_CERTS: undefined, ...env };
    const command = new Command(name, args, { ...process.env, ...own });
    this.#ends.push(() => command.kill('SIGKILL') && command.exit());
    return command;
  }

  runScript(script: Script, args: string[] = [], url = this.url, env = {}): Command {
    const command = [built(`src/${script}`), ...args];
    return this.runCommand(process.execPath, command, { AMQP_URL: url, ...env });
  }

  async startServer(args: string[] = [], url = this.url): Promise<Command> {
    const server = this.runScript('rpc_server', args, url);
    await server.shows(/^ \[x\] Awaiting RPC requests$/m);
    return server;
  }

  /** Runs the client, which waits as long as it takes. */
  readonly runClient = (...args: string[]) =>
    this.runScript('rpc_client', ['--timeout', String(PATIENCE), ...args]);

  /** The client class, in this process, with the lines that it logs. */
  async connectClient(url = this.url) {
    const log: string[] = [];
    const client = await RpcClient.connect({ url, log: (line) => log.push(line) });
    this.#ends.push(() => client.close());
    const call = (n: number, timeout = PATIENCE) => client.call(String(n), { timeout });
    const logs = (pattern: RegExp) => until(`${pattern}`, () => pattern.test(log.join('\n')));
    return { client, call, log, logs };
  }

  async startProxy(faults: Faults = {}, url = this.url, host?: string): Promise<Proxy> {
    const proxy = await Proxy.start(url, host);
    proxy.faults = faults;
    this.#ends.push(() => proxy.refuse());
    return proxy;
  }

  async openChannel() {
    const connection = await connect(this.url, { noDelay: true });
    this.#ends.push(() => connection.close().catch(() => {}));
    connection.on('error', () => {});
    const channel = await connection.createChannel();
    channel.on('error', () => {});
    return { channel, connection };
  }

  async declareQueue(options: Options.AssertQueue = {}): Promise<Channel> {
    const { channel } = await this.openChannel();
    await channel.assertQueue('rpc_queue', options);
    return channel;
  }

  /** A server as any other port of the tutorial may be: `answer` gets each request. */
  async answerWith(answer: Answer): Promise<Channel> {
    const channel = await this.declareQueue();
    await channel.consume('rpc_queue', (request) => answer(channel, request!), { noAck: true });
    return channel;
  }

  /** Waits until rpc_queue has so many requests that wait, or so many servers. */
  async queueHas(wanted: { messageCount?: number; consumerCount?: number }): Promise<void> {
    const { channel } = await this.openChannel();
    const look = async () => expect(await channel.checkQueue('rpc_queue')).toMatchObject(wanted);
    await vi.waitFor(look, 300_000);
  }

  readonly describeQueue = (name: string) =>
    this.broker.api('GET', `queues/${encodeURIComponent(this.name)}/${name}`);
}

/** A new virtual host for each test of a file, on the broker that most files share, or their own. */
export function useVhost(startBroker?: () => Promise<Broker>): Vhost {
  const vhost = new Vhost();
  beforeAll(async () => {
    vhost.broker = (await startBroker?.()) ?? new Broker(JSON.parse(process.env.RPC_BROKER!));
  });
  beforeEach(async () => {
    vhost.name = `test ${crypto.randomUUID()}`;
    await vhost.broker.api('PUT', `vhosts/${encodeURIComponent(vhost.name)}`);
  });
  afterEach(() => vhost.end());
  afterAll(() => startBroker && vhost.broker?.kill());
  return vhost;
}

// A server says that it awaits requests just before it consumes: lost then, it "cannot connect".
export const LOST =
  /^(?: \[!\] )?(?:Lost the connection|Cannot connect) to RabbitMQ at \S+: .*; trying again$/m;
export const BACK = /^(?: \[!\] )?Connected to RabbitMQ at \S+ for ten seconds now$/m;

export const errorOf = (call: Promise<unknown>): Promise<RpcError | undefined> =>
  call.then(() => undefined).catch((error) => error);

/** Replies with these bodies and properties, whatever was asked. */
export function replying(...replies: [body: string | Buffer, properties?: object][]): Answer {
  return (channel, { properties: { replyTo, correlationId } }) => {
    for (const [body, properties] of replies) {
      channel.sendToQueue(replyTo, Buffer.from(body), { correlationId, ...properties });
    }
  };
}

export const take = (channel: Channel, queue: string) =>
  until(`a message in ${queue}`, () => channel.get(queue, { noAck: true })) as Promise<GetMessage>;
