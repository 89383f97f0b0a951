// What the end-to-end suites share: a private broker for the file, a virtual host for each test, the two scripts.
import { connect, type Channel, type ChannelModel, type GetMessage } from 'amqplib';
import { afterAll, afterEach, beforeAll, beforeEach, expect } from 'vitest';
import { fib } from '../../src/fib';
import { Broker, type BrokerOptions } from './broker';
import { Command, cleanUp, until } from './processes';

export interface Suite {
  readonly broker: Broker;
  /** The virtual host of this test. */
  readonly vhost: string;
  readonly url: string;
  /** Runs `src/rpc_server.ts` and waits until it serves. */
  server(...args: string[]): Promise<Command>;
  /** Runs one of the scripts, with this test's broker or with another environment. */
  run(script: 'rpc_server' | 'rpc_client', args?: string[], env?: NodeJS.ProcessEnv): Command;
  client(...args: string[]): Command;
  /** A plain amqplib channel: the other side of the wire. */
  peer(url?: string): Promise<{ channel: Channel; connection: ChannelModel }>;
}

export function suite(options: BrokerOptions = {}): Suite {
  let broker: Broker;
  let tests = 0;
  const commands: Command[] = [];
  const connections: ChannelModel[] = [];

  const self: Suite = {
    get broker() {
      return broker;
    },
    get vhost() {
      return `test ${tests}`;
    },
    get url() {
      return broker.url(self.vhost);
    },
    run(script, args = [], env = {}) {
      const command = new Command('node_modules/.bin/ts-node', [`src/${script}.ts`, ...args], { AMQP_URL: self.url, ...env });
      commands.push(command);
      return command;
    },
    async server(...args) {
      const server = self.run('rpc_server', args);
      await server.shows(/^ \[x\] Awaiting RPC requests$/m);
      return server;
    },
    client: (...args) => self.run('rpc_client', args),
    async peer(url = self.url) {
      const connection = await connect(url, { noDelay: true });
      connections.push(connection);
      connection.on('error', () => {});
      const channel = await connection.createChannel();
      channel.on('error', () => {});
      return { channel, connection };
    },
  };

  beforeAll(async () => {
    broker = await Broker.start(options);
  }, 120_000);
  beforeEach(async () => {
    tests++;
    await broker.addVhost(self.vhost);
    process.env.AMQP_URL = self.url; // for the client class, where a test uses it in this process
  }, 20_000);
  afterEach(async () => {
    for (const connection of connections.splice(0)) void connection.close().catch(() => {});
    for (const { child } of commands) child.kill('SIGKILL');
    await Promise.all(commands.splice(0).map((command) => command.exit()));
  }, 20_000);
  afterAll(cleanUp);
  return self;
}

export const NUMBERS = ['1', '2', '3', '4', '5', '6', '7', '8'];
export const LOST = /^ \[!\] Lost the connection to RabbitMQ at 127\.0\.0\.1:\d+: .*$/m;
export const BACK = /^ \[!\] Connected to RabbitMQ at 127\.0\.0\.1:\d+\.$/m;

/** Expects a client that was asked for NUMBERS to get each answer. */
export async function expectAnswers(client: Command) {
  expect(await client.exit(30_000)).toBe(0);
  const answers = client.stdout.match(/^ \[\.\].*/gm)!.sort();
  expect(answers).toEqual(NUMBERS.map((n) => ` [.] fib(${n}) = ${fib(Number(n))}`));
}

/** Waits until so many servers consume rpc_queue. */
export async function expectServed(it: Suite, servers: number) {
  await until(`${servers} servers`, async () => {
    const queues = await it.broker.ctl('list_queues', '-p', it.vhost, 'name', 'consumers').catch(() => '');
    return queues.includes(`rpc_queue\t${servers}\n`);
  });
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
  stream.write = (bytes) => write(bytes.length > 4_096 ? bytes : Buffer.from(spoil(bytes.toString('latin1')), 'latin1'));
}
