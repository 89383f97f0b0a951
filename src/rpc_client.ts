// The RPC client: one exclusive reply queue for all calls; the correlation id says which call a reply belongs to.
// The class is for programs of your own; the script below it calls it from the command line.
import { IllegalOperationError, type ChannelModel, type ConfirmChannel, type ConsumeMessage } from 'amqplib';
import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { QUEUE, inspectQueue, keepConnected, parseMilliseconds, print, printable, run, warn } from './connection';
import { CONTENT_TYPE, DEFAULT_ARGUMENT, readArgument, readResult, writeArgument, writeResult } from './fib';
import type { Argument, Result } from './fib';

const START_A_SERVER = 'start a server with: npx ts-node src/rpc_server.ts';
const NO_QUEUE = `there is no ${QUEUE}: ${START_A_SERVER}`;
const REFUSED = `the broker refuses the request: ${QUEUE} is full, or has no leader`;

export interface RpcClientOptions {
  /** Max time to wait for the connection, in ms, 1 to 2,147,483,647; a handshake has 5 s. @default 30_000 */
  timeout?: number;
  /** The broker's URL. @default AMQP_URL of the environment, or else amqp://guest:guest@localhost:5672 */
  url?: string;
  /** Takes a line on what happens besides the calls: connection lost and found, no reply yet. Must not throw. */
  log?: (line: string) => void;
}

interface Call {
  body: Buffer;
  deadline: number; // in milliseconds, on the clock of performance.now()
  timer: NodeJS.Timeout;
  resolve: (value: Result) => void;
  reject: (error: Error) => void;
}

/**
 * Calls fib on whichever server is free, over one connection and one reply queue, however many calls are in flight.
 * A connection that is lost comes back by itself, and what is still unanswered is sent again.
 *
 * @example
 * const client = await RpcClient.connect({ log: console.error });
 * console.log(await client.call(30)); // 832040n
 * await client.close();
 */
export class RpcClient {
  readonly #pending = new Map<string, Call>(); // by correlation id
  readonly #log: (line: string) => void;
  readonly #stop = new AbortController();
  #stopped = Promise.resolve();
  #connection: ChannelModel | undefined;
  #channel: ConfirmChannel | undefined;
  #replyQueue = '';
  #held = false; // are calls kept back until there is a server?
  #watching: Promise<void> | undefined;
  #quietSince = 0; // in milliseconds, on the clock of performance.now()
  #lastSeen = `${QUEUE} was not looked at`;

  private constructor(log: (line: string) => void) {
    this.#log = log;
  }

  /**
   * Connects to the broker and opens the reply queue.
   *
   * @throws Error if the URL is malformed, or the broker is not there, refuses the client, or has not answered in time
   * @throws RangeError if the timeout is out of its range
   */
  static async connect({ url, timeout = 30_000, log = () => {} }: RpcClientOptions = {}): Promise<RpcClient> {
    parseMilliseconds('timeout', String(timeout), 1);
    const client = new RpcClient(log);
    const late = setTimeout(() => client.#end(new Error(`the broker has not answered within ${timeout} ms`)), timeout);
    await new Promise<void>((connectedOrEnded) => {
      client.#stopped = keepConnected({
        url, log, stop: client.#stop.signal,
        name: 'rpc_client',
        waitForBroker: false,
        openChannel: (connection) => connection.createConfirmChannel(),
        setUp: (...args) => client.#openReplyQueue(...args).then(connectedOrEnded),
      }).catch((error) => client.#end(error)).then(connectedOrEnded);
    });
    clearTimeout(late);
    client.#stop.signal.throwIfAborted();
    return client;
  }

  /** The callback queue of the tutorial, on each new connection. Its name goes with every request. */
  async #openReplyQueue(channel: ConfirmChannel, connection: ChannelModel, lost: AbortSignal): Promise<void> {
    const { queue } = await channel.assertQueue('', { exclusive: true, durable: false });
    await channel.consume(queue, (reply) => reply && this.#onReply(reply), { noAck: true });
    channel.on('return', ({ properties }) => this.#reject(properties.correlationId, NO_QUEUE));
    connection.on('blocked', (reason) => {
      this.#held = true; // until a look is answered: what was sent now would be computed when nobody waits any more
      this.#lastSeen = `the broker is blocking publishers (${printable(reason)})`;
    });
    lost.addEventListener('abort', () => (this.#lastSeen = 'the connection to the broker is lost'));
    this.#held = this.#connection !== undefined; // not on the first, where calls are sent at once
    this.#connection = connection;
    this.#channel = channel;
    this.#replyQueue = queue;
  }

  /**
   * Calls fib on a server.
   *
   * @param timeout max time to wait for the reply, in milliseconds, 1 to 2,147,483,647
   * @returns the result; rejects with an Error if the server reports one, if the reply is no result, if there is no
   * rpc_queue or the broker refuses the request, if the timeout is over, or if the client is closed or has lost its
   * broker for good; with a RangeError if argument or timeout is out of its range
   */
  call(argument: Argument, { timeout = 30_000 }: { timeout?: number } = {}): Promise<Result> {
    return new Promise((resolve, reject) => {
      const body = writeArgument(argument);
      parseMilliseconds('timeout', String(timeout), 1);
      this.#stop.signal.throwIfAborted();
      const id = randomUUID();
      const onDeadline = () => this.#reject(id, `no reply within ${timeout} ms; when last seen, ${this.#lastSeen}`);
      const deadline = performance.now() + timeout;
      if (this.#pending.size === 0) this.#quietSince = performance.now();
      this.#pending.set(id, { body, deadline, timer: setTimeout(onDeadline, timeout), resolve, reject });
      this.#send(id);
      this.#watching ??= this.#watch().finally(() => (this.#watching = undefined));
    });
  }

  /** Sends the request of a pending call. If it cannot now, the call is sent once there are a channel and a server. */
  #send(id: string): void {
    if (this.#held) return;
    const { body, deadline } = this.#pending.get(id)!;
    const onConfirm = (error?: Error) => error?.message === 'message nacked' && this.#reject(id, REFUSED);
    try {
      this.#channel!.sendToQueue(QUEUE, body, {
        contentType: CONTENT_TYPE,
        correlationId: id,
        replyTo: this.#replyQueue,
        mandatory: true, // comes back at once where there is no rpc_queue
        expiration: Math.max(1, Math.ceil(deadline - performance.now())), // is not computed once nobody waits for it
      }, onConfirm);
    } catch (error) {
      if (!(error instanceof IllegalOperationError)) throw error; // the channel is closed, or closing
    }
  }

  /** Matches a reply to its call. A reply that no call waits for came twice or too late, and is dropped. */
  #onReply({ properties, content }: ConsumeMessage): void {
    this.#quietSince = performance.now();
    const call = this.#settle(properties.correlationId);
    if (!call) {
      const beginning = JSON.stringify(content.toString('utf8', 0, 40));
      return this.#log(`Dropped a reply that no call waits for: ${printable(beginning)}`);
    }
    try {
      if (properties.type === 'error') throw new Error(content.toString('utf8', 0, 500) || 'unknown error');
      call.resolve(readResult(content));
    } catch (error) {
      call.reject(new Error(printable((error as Error).message)));
    }
  }

  /**
   * Looks at rpc_queue as long as calls are pending. Sends those that are held when it has a server, or cannot be seen:
   * after a reconnection its servers, its leader or the queue itself may still be on their way back. Says so when no
   * reply has come for a second, and again if a later look finds another number of servers.
   */
  async #watch(): Promise<void> {
    let told: number | undefined;
    while (this.#pending.size > 0) {
      const servers = await this.#look();
      if (this.#held && servers !== 0) {
        this.#held = false;
        for (const id of this.#pending.keys()) this.#send(id);
      }
      const quiet = performance.now() - this.#quietSince;
      if (quiet >= 1_000 && this.#pending.size > 0 && servers !== undefined && servers !== told) {
        this.#log(`No reply for a second: ${this.#lastSeen}`);
        told = servers;
      }
      await pause(quiet < 1_000 ? 200 : 1_000, undefined, { ref: false });
    }
  }

  /** Returns the number of servers, or undefined if the broker does not say. Takes as long as the broker is frozen. */
  async #look(): Promise<number | undefined> {
    try {
      const queue = await inspectQueue(this.#connection!);
      const servers = queue?.consumerCount ?? 0;
      const count = (n: number, noun: string) => `${n} ${noun}${n === 1 ? '' : 's'}`;
      const seen = `${count(servers, 'server')} and ${count(queue?.messageCount ?? 0, 'waiting request')}`;
      this.#lastSeen = !queue ? NO_QUEUE : `${QUEUE} has ${seen}${servers === 0 ? `: ${START_A_SERVER}` : ''}`;
      return servers;
    } catch {
      return undefined; // the connection is lost, or the queue is exclusive to another program
    }
  }

  /** Takes the call off the list of those pending, if it is on it. */
  #settle(id: string): Call | undefined {
    const call = this.#pending.get(id);
    clearTimeout(call?.timer);
    this.#pending.delete(id);
    return call;
  }

  #reject(id: string, reason: string): void {
    this.#settle(id)?.reject(new Error(reason));
  }

  #end(error: Error): void {
    this.#stop.abort(error);
    for (const id of this.#pending.keys()) this.#settle(id)?.reject(error);
  }

  /** Rejects the calls that are pending and any that come later, and closes the connection, in a second at most. */
  async close(): Promise<void> {
    this.#end(new Error('the client is closed'));
    await this.#stopped;
  }
}

// ---------------------------------------- The script ----------------------------------------

const USAGE = `Usage: npx ts-node src/rpc_client.ts [--timeout MS] [N ...]

Asks the servers for fib(N), for each N at once; N is 0 to 1000000 (default 30).
  --timeout MS  wait for an answer for at most MS milliseconds, 1 to 2147483647 (default 30000)
  --help        print this
The environment's AMQP_URL names the broker (default amqp://guest:guest@localhost:5672).
Exit status: 0 every call was answered, 1 one was not, 2 wrong usage
`;

function parseCommandLine() {
  const options = { timeout: { type: 'string', default: '30000' } } as const;
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const typed = positionals.join('') !== ''; // an empty argument alone is none, as in the tutorial
  const callArguments = typed ? positionals.map((text) => readArgument(Buffer.from(text))) : [DEFAULT_ARGUMENT];
  return { callArguments, timeout: parseMilliseconds('--timeout', values.timeout, 1) };
}

async function main({ callArguments, timeout }: ReturnType<typeof parseCommandLine>, stop: AbortController) {
  const client = await RpcClient.connect({ timeout, log: warn });
  stop.signal.addEventListener('abort', () => client.close());
  const call = async (argument: Argument) => {
    const text = `fib(${writeArgument(argument)})`;
    print(` [x] Requesting ${text}`);
    try {
      const value = writeResult(await client.call(argument, { timeout }));
      print(callArguments.length === 1 ? ` [.] Got ${value}` : ` [.] ${text} = ${value}`);
    } catch (error) {
      process.exitCode = 1;
      if (!stop.signal.aborted) warn(`${text}: ${(error as Error).message}`);
    }
  };
  await Promise.all(callArguments.map(call));
  await client.close();
}

if (require.main === module) void run(USAGE, parseCommandLine, main);
