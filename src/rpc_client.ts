// The RPC client: one exclusive reply queue for all calls; the correlation id says which call a reply belongs to.
// The class is for programs of your own; the script at the bottom calls it from the command line.
import type { ChannelModel, ConfirmChannel, ConsumeMessage } from 'amqplib';
import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { MILLISECONDS, QUEUE, inspectQueue, keepConnected, printable, wholeNumber } from './connection';
import { print, run, warn } from './connection';
import { CONTENT_TYPE, DEFAULT_ARGUMENT, readArgument, readResult, writeArgument, writeResult } from './fib';
import type { Argument, Result } from './fib';

/**
 * Calls fib on whichever server is free, over one connection and one reply queue, however many calls are in flight.
 * A connection that is lost comes back by itself, and what is still unanswered is sent again.
 *
 * @example
 * await using client = await RpcClient.connect({ log: console.error }); // or call client.close() at the end
 * console.log(await client.call(30)); // 832040n
 */
export class RpcClient {
  readonly #pending = new Map<string, Call>(); // by correlation id
  readonly #log: (line: string) => void;
  readonly #stop = new AbortController();
  #stopped = Promise.resolve();
  #closedError: (() => RpcError) | undefined;
  #link: { connection: ChannelModel; channel: ConfirmChannel; replyQueue: string } | undefined;
  #held: Hold | undefined; // while it is set, no request goes out
  #silence: Silence = { since: 0 };
  #looking: Promise<Look> | undefined;
  #nextLook: NodeJS.Timeout | undefined;

  private constructor(log: (line: string) => void) {
    this.#log = (line) => log(printable(line));
  }

  /**
   * Connects to the broker and opens the reply queue, within ten seconds.
   *
   * @throws RpcError, its code CLOSED, if the URL is malformed, or the broker is not there or refuses the client
   */
  static connect({ url, log = () => {} }: RpcClientOptions = {}): Promise<RpcClient> {
    const client = new RpcClient(log);
    return new Promise((resolve, reject) => {
      client.#stopped = keepConnected({
        url, log: client.#log, stop: client.#stop.signal,
        name: 'rpc_client',
        waitForBroker: false,
        openChannel: (connection) => connection.createConfirmChannel(),
        setUp: (...connected) => client.#openReplyQueue(...connected).then(() => resolve(client)),
      }).catch((error) => reject(client.#end(error.message, error)));
    });
  }

  /** The callback queue of the tutorial, on each new connection. Its name goes with every request. */
  async #openReplyQueue(channel: ConfirmChannel, connection: ChannelModel, lost: AbortSignal): Promise<void> {
    const { queue: replyQueue } = await channel.assertQueue('', { exclusive: true, durable: false });
    await channel.consume(replyQueue, (reply) => reply && this.#onReply(reply), { noAck: true });
    lost.throwIfAborted();
    const hold = (reason?: string) => (this.#held = { since: performance.now(), reason });
    lost.addEventListener('abort', () => hold('the connection to the broker is lost'));
    connection.on('blocked', (reason) => hold(`the broker is blocking publishers (${reason})`));
    connection.on('unblocked', () => (hold(), this.#watch()));
    channel.on('return', ({ properties }) => this.#onReturn(properties.correlationId));
    this.#link = { connection, channel, replyQueue };
    if (this.#held) hold(); // not on the first connection: a request may wait in the queue for its server
    void this.#watch();
  }

  /**
   * Calls fib on a server. The call waits for a server where there is none, and for the broker where it is lost.
   *
   * @param timeout max time to wait for the reply, in milliseconds, 1 to 2,147,483,647
   * @returns the result; rejects with an RpcError, whose `code` says why, or a RangeError for argument or timeout
   */
  call(argument: Argument, { timeout = 30_000 }: { timeout?: number } = {}): Promise<Result> {
    return new Promise((resolve, reject) => {
      const body = writeArgument(argument);
      wholeNumber('timeout', timeout, MILLISECONDS);
      if (this.#closedError) throw this.#closedError();
      const id = randomUUID();
      const now = performance.now();
      const timer = setTimeout(() => this.#onDeadline(id, timeout), timeout);
      const call: Call = { body, deadline: now + timeout, timer, resolve, reject };
      const isFirst = this.#pending.size === 0;
      this.#pending.set(id, call);
      this.#send(id, call);
      if (!isFirst) return;
      this.#silence = { since: now };
      if (this.#held) this.#held.since = now;
      if (this.#held || !this.#nextLook) void this.#watch();
    });
  }

  /** Sends the request of a pending call, unless it is held, or was sent on this channel already. */
  #send(id: string, call: Call): void {
    const { channel, replyQueue } = this.#link!;
    const timeLeft = call.deadline - performance.now();
    if (this.#held || call.sentOn === channel || timeLeft <= 0) return;
    call.sentOn = channel;
    channel.sendToQueue(QUEUE, call.body, {
      contentType: CONTENT_TYPE,
      correlationId: id,
      replyTo: replyQueue,
      mandatory: true, // comes back at once where there is no rpc_queue
      expiration: Math.ceil(timeLeft), // is not computed once nobody waits for it
    }, (error?: Error) => error?.message === 'message nacked' && this.#reject(id, new RpcError('REFUSED', REFUSED)));
  }

  /** Matches a reply to its call. A reply that no call waits for came twice or too late, and is dropped. */
  #onReply({ properties, content }: ConsumeMessage): void {
    this.#silence = { since: performance.now() };
    const call = this.#settle(properties.correlationId);
    if (!call) {
      const beginning = JSON.stringify(content.toString('utf8', 0, 40));
      return this.#log(`Dropped a reply that no call waits for: ${beginning}`);
    }
    try {
      if (properties.type === 'error') throw new Error(content.toString('utf8', 0, 500) || 'unknown error');
      call.resolve(readResult(content));
    } catch (error) {
      call.reject(new RpcError('SERVER', (error as Error).message, error));
    }
  }

  /** There is no rpc_queue. The call waits until there is one with a server, and so do those after it. */
  #onReturn(id: string): void {
    delete this.#pending.get(id)?.sentOn;
    if (this.#held) return;
    this.#held = { since: this.#silence.since };
    this.#planLook(); // not at once: where the queue cannot be seen, the request would come and go without a pause
  }

  /**
   * Looks at rpc_queue while that is needed: while calls are held, to send them when there is a server or none can be
   * seen; and after a second without a reply, to say so, and again when the number of servers has changed.
   */
  async #watch(): Promise<void> {
    clearTimeout(this.#nextLook);
    this.#nextLook = undefined;
    const isNeeded = () => this.#pending.size > 0 && !this.#held?.reason;
    if (!isNeeded()) return;
    const silence = this.#silence;
    const isSilent = performance.now() - silence.since >= 1_000;
    if (isSilent || this.#held) {
      const { servers, text } = await this.#look();
      if (!isNeeded()) return;
      if (this.#held && servers !== 0) {
        this.#held = undefined;
        for (const [id, call] of this.#pending) this.#send(id, call);
      }
      if (isSilent && this.#silence === silence && silence.told !== servers) {
        this.#log(`No reply for a second: ${text}`);
        silence.told = servers;
      }
    }
    this.#planLook();
  }

  /** Takes the next look at each second without a reply; while calls are held, after a fifth of that time. */
  #planLook(): void {
    clearTimeout(this.#nextLook);
    const waited = performance.now() - (this.#held ?? this.#silence).since;
    const pause = this.#held ? Math.min(2_000, Math.max(100, waited / 5)) : 1_000 - (waited % 1_000);
    this.#nextLook = setTimeout(() => this.#watch(), pause).unref();
  }

  /** One look for all who want one: a frozen broker answers none, and each would hold a channel. */
  #look(): Promise<Look> {
    return (this.#looking ??= lookAtQueue(this.#link!.connection).finally(() => (this.#looking = undefined)));
  }

  async #onDeadline(id: string, timeout: number): Promise<void> {
    const noAnswer = pause(200, { text: 'the broker does not answer' }, { ref: false });
    const { text } = await Promise.race([this.#look(), noAnswer]);
    this.#reject(id, new RpcError('TIMEOUT', `no reply within ${timeout} ms; ${this.#held?.reason ?? text}`));
  }

  /** Takes the call off the list of those pending, if it is on it. */
  #settle(id: string): Call | undefined {
    const call = this.#pending.get(id);
    clearTimeout(call?.timer);
    this.#pending.delete(id);
    return call;
  }

  #reject(id: string, error: RpcError): void {
    this.#settle(id)?.reject(error);
  }

  /** Rejects the calls that are pending and any that come later. Returns an error that says why. */
  #end(message: string, cause?: unknown): RpcError {
    const closedError = () => new RpcError('CLOSED', message, cause);
    this.#closedError ??= closedError;
    this.#stop.abort();
    for (const id of this.#pending.keys()) this.#reject(id, closedError());
    return closedError();
  }

  /** Rejects the calls that are pending and any that come later, and closes the connection, in a second at most. */
  async close(): Promise<void> {
    this.#end('the client is closed');
    await this.#stopped;
  }

  readonly [Symbol.asyncDispose] = () => this.close();
}

export interface RpcClientOptions {
  /** The broker's URL. @default AMQP_URL of the environment, or else amqp://guest:guest@localhost:5672 */
  url?: string;
  /** Takes a line on what happens besides the calls: connection lost and found, no reply yet. Must not throw. */
  log?: (line: string) => void;
}

/**
 * Why a call has failed: no reply in time (TIMEOUT); the server reports an error, or its reply is no result (SERVER); the
 * broker does not take the request (REFUSED); the client is closed, or has lost its broker for good (CLOSED).
 */
export class RpcError extends Error {
  override readonly name = 'RpcError';

  /** @param cause what it came from, where there is something */
  constructor(readonly code: 'TIMEOUT' | 'SERVER' | 'REFUSED' | 'CLOSED', message: string, cause?: unknown) {
    super(printable(message), cause === undefined ? {} : { cause });
  }
}

type Instant = number; // in milliseconds, on the clock of performance.now()

interface Call {
  body: Buffer;
  deadline: Instant;
  timer: NodeJS.Timeout;
  sentOn?: ConfirmChannel;
  resolve: (value: Result) => void;
  reject: (error: Error) => void;
}

/** From when on calls are held, and why, if it is not for want of a server. */
interface Hold { since: Instant; reason?: string | undefined }

/** The time without a reply while calls are pending, and the number of servers that was told in it. */
interface Silence { since: Instant; told?: Look['servers'] }

/** What is seen of rpc_queue. */
interface Look { servers: number | 'unknown'; text: string }

const START_A_SERVER = 'start a server with: npx ts-node src/rpc_server.ts';
const REFUSED = `the broker refuses the request: ${QUEUE} is full, or has no leader`;

/** Never rejects. Takes as long as the broker is frozen. */
async function lookAtQueue(connection: ChannelModel): Promise<Look> {
  try {
    const queue = await inspectQueue(connection);
    if (!queue) return { servers: 0, text: `there is no ${QUEUE}: ${START_A_SERVER}` };
    const count = (n: number, noun: string) => `${n} ${noun}${n === 1 ? '' : 's'}`;
    const { consumerCount: servers, messageCount } = queue;
    const seen = `${QUEUE} has ${count(servers, 'server')} and ${count(messageCount, 'waiting request')}`;
    return { servers, text: servers === 0 ? `${seen}: ${START_A_SERVER}` : seen };
  } catch (error) {
    const { code, message } = error as Error & { code?: number };
    const reason = code === 403 ? 'it takes a permission on it, such as write' : message;
    return { servers: 'unknown', text: `${QUEUE} cannot be seen: ${reason}` };
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
  return { callArguments, timeout: wholeNumber('--timeout', values.timeout, MILLISECONDS) };
}

async function main({ callArguments, timeout }: ReturnType<typeof parseCommandLine>): Promise<void> {
  await using client = await RpcClient.connect({ log: warn });
  const call = async (argument: Argument) => {
    const text = `fib(${writeArgument(argument)})`;
    print(` [x] Requesting ${text}`);
    try {
      const value = writeResult(await client.call(argument, { timeout }));
      print(callArguments.length === 1 ? ` [.] Got ${value}` : ` [.] ${text} = ${value}`);
    } catch (error) {
      process.exitCode = 1;
      warn(`${text}: ${(error as Error).message}`);
    }
  };
  await Promise.all(callArguments.map(call));
}

if (require.main === module) void run(USAGE, parseCommandLine, main);
