// The RPC client: one exclusive reply queue for all calls; the correlation id says which call a reply belongs to.
// The class is for programs of your own; the script at the bottom calls it from the command line.
import type { ChannelModel, ConfirmChannel, ConsumeMessage } from 'amqplib';
import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { QUEUE, inspectQueue, keepConnected, print, printable, run, warn, wholeNumber } from './connection';
import type { Options } from './connection';
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
  #log: (line: string) => void = () => {};
  readonly #stop = new AbortController();
  #stopped = Promise.resolve();
  #closedError: (() => RpcError) | undefined;
  #link: { connection: ChannelModel; channel: ConfirmChannel; replyQueue: string } | undefined;
  #held: { since: number; reason?: string } | undefined; // no request goes out: there is no server, or for that reason
  #silence: { since: number; told?: Look['servers'] } = { since: 0 }; // no reply has come, though calls are pending
  #looking: Promise<Look> | undefined;
  #nextLook: NodeJS.Timeout | undefined;

  private constructor() {}

  /** @throws RpcError, code CLOSED: the URL is malformed, the broker not there within 10 s, or it refuses the client */
  static connect({ url, log = () => {} }: RpcClientOptions = {}): Promise<RpcClient> {
    const client = new RpcClient();
    client.#log = (line) => log(printable(line));
    return new Promise((resolve, reject) => { // by setImmediate, when there is something that close() can close
      client.#stopped = keepConnected({
        url, name: 'rpc_client', waitForBroker: false, log: client.#log, stop: client.#stop.signal,
        openChannel: (connection) => connection.createConfirmChannel(),
        setUp: (...connected) => client.#openReplyQueue(...connected).then(() => void setImmediate(resolve, client)),
      }).catch((error) => reject(client.#end(error.message, error)));
    });
  }

  /** The callback queue of the tutorial, on each new connection. Its name goes with every request. */
  async #openReplyQueue(channel: ConfirmChannel, connection: ChannelModel, lost: AbortSignal): Promise<void> {
    const { queue: replyQueue } = await channel.assertQueue('', { exclusive: true, durable: false });
    await channel.consume(replyQueue, (reply) => reply && this.#onReply(reply), { noAck: true });
    lost.throwIfAborted();
    const hold = (reason = '') => {
      this.#held = { since: performance.now(), reason };
      void this.#watch();
    };
    lost.addEventListener('abort', () => hold('the connection to the broker is lost'));
    connection.on('blocked', (reason) => hold(`the broker is blocking publishers (${reason})`));
    connection.on('unblocked', () => hold());
    channel.on('return', ({ properties }) => this.#onReturn(properties.correlationId));
    this.#link = { connection, channel, replyQueue };
    if (this.#held) hold(); // not on the first connection: a request may wait in the queue for its server
  }

  /**
   * Calls fib on a server. The call waits for a server where there is none, and for the broker where it is lost.
   *
   * @param timeout max time to wait for the reply, in milliseconds, 1 to 2,147,483,647
   * @throws RpcError, whose `code` says why; RangeError if argument or timeout is out of its range
   */
  call(argument: Argument, { timeout = 30_000 }: { timeout?: number } = {}): Promise<Result> {
    return new Promise((resolve, reject) => {
      const body = writeArgument(argument);
      wholeNumber('timeout', timeout, 1);
      if (this.#closedError) throw this.#closedError();
      const [id, now] = [randomUUID(), performance.now()];
      const timer = setTimeout(() => this.#onDeadline(id, timeout), timeout);
      const call: Call = { body, deadline: now + timeout, timer, resolve, reject };
      if (this.#pending.size === 0) this.#silence = { since: now };
      this.#pending.set(id, call);
      this.#send(id, call);
      if (this.#pending.size === 1) void this.#watch();
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
    }, (error?: Error) => {
      if (error?.message === 'message nacked') this.#settle(id)?.reject(new RpcError('REFUSED', REFUSED));
    });
  }

  /** Matches a reply to its call. A reply that no call waits for came twice or too late, and is dropped. */
  #onReply({ properties, content }: ConsumeMessage): void {
    this.#silence = { since: performance.now() };
    const call = this.#settle(properties.correlationId);
    const beginning = () => JSON.stringify(content.toString('utf8', 0, 40));
    if (!call) return this.#log(`Dropped a reply that no call waits for: ${beginning()}`);
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
    this.#held ??= { since: this.#silence.since };
    this.#planLook(); // not at once: where the queue cannot be seen, the request would come and go without a pause
  }

  /**
   * Looks at rpc_queue while that is needed: while calls are held, to send them when there is a server or none can be
   * seen; and after a second without a reply, to say so, and again when the number of servers has changed.
   */
  async #watch(): Promise<void> {
    if (this.#pending.size === 0 || this.#held?.reason) return;
    const silence = this.#silence;
    const isSilent = performance.now() - silence.since >= 1_000;
    if (isSilent || this.#held) {
      const { servers, text } = await this.#look();
      if (this.#pending.size === 0 || this.#held?.reason) return;
      if (servers !== 0) this.#held = undefined;
      for (const [id, call] of this.#pending) this.#send(id, call);
      if (isSilent && this.#silence === silence && silence.told !== servers) {
        this.#log(`No reply for a second: ${text}`);
        silence.told = servers;
      }
    }
    this.#planLook();
  }

  /** Plans the next look: at each second without a reply, or while calls are held after a fifth of that time. */
  #planLook(): void {
    clearTimeout(this.#nextLook);
    const waited = performance.now() - Math.max(this.#silence.since, this.#held?.since ?? 0);
    const ms = this.#held ? Math.min(2_000, Math.max(100, waited / 5)) : 1_000 - (waited % 1_000);
    this.#nextLook = setTimeout(() => this.#watch(), ms).unref();
  }

  /** One look for all who want one: a frozen broker answers none, and each would hold a channel. */
  #look(): Promise<Look> {
    return (this.#looking ??= lookAtQueue(this.#link!.connection).finally(() => (this.#looking = undefined)));
  }

  async #onDeadline(id: string, ms: number): Promise<void> {
    const seen = await Promise.race([this.#look(), pause(200, { text: 'the broker does not answer' }, { ref: false })]);
    this.#settle(id)?.reject(new RpcError('TIMEOUT', `no reply within ${ms} ms; ${this.#held?.reason || seen.text}`));
  }

  #settle(id: string): Call | undefined {
    const call = this.#pending.get(id);
    clearTimeout(call?.timer);
    this.#pending.delete(id);
    return call;
  }

  /** Rejects the calls that are pending and any that come later. Returns an error that says why. */
  #end(message: string, cause?: unknown): RpcError {
    this.#closedError ??= () => new RpcError('CLOSED', message, cause);
    this.#stop.abort();
    for (const id of this.#pending.keys()) this.#settle(id)?.reject(this.#closedError());
    return this.#closedError();
  }

  /** Rejects the calls that are pending and any that come later, and closes the connection, in a second at most. */
  async close(): Promise<void> {
    this.#end('the client is closed');
    await this.#stopped;
  }

  readonly [Symbol.asyncDispose] = () => this.close();
}

export type RpcClientOptions = Partial<Pick<Options<ConfirmChannel>, 'url' | 'log'>>;

/**
 * Why a call has failed: no reply in time (TIMEOUT), an error of the server or a reply that is no result (SERVER), the
 * broker does not take the request (REFUSED), the client is closed or has lost its broker for good (CLOSED).
 */
export class RpcError extends Error {
  override readonly name = 'RpcError';
  constructor(readonly code: 'TIMEOUT' | 'SERVER' | 'REFUSED' | 'CLOSED', message: string, cause?: unknown) {
    super(printable(message), cause === undefined ? {} : { cause });
  }
}

interface Call {
  body: Buffer;
  deadline: number; // in ms, on the clock of performance.now(), as all points in time here
  timer: NodeJS.Timeout;
  sentOn?: ConfirmChannel;
  resolve: (value: Result) => void;
  reject: (error: Error) => void;
}
interface Look { servers: number | 'unknown'; text: string }
const REFUSED = `the broker refuses the request: ${QUEUE} is full, or has no leader`;

/** Takes as long as the broker is frozen. Never rejects. */
async function lookAtQueue(connection: ChannelModel): Promise<Look> {
  const count = (n: number, noun: string) => `${n} ${noun}${n === 1 ? '' : 's'}`;
  try {
    const queue = await inspectQueue(connection);
    const servers = queue?.consumerCount ?? 0;
    const has = queue && `${QUEUE} has ${count(servers, 'server')} and ${count(queue.messageCount, 'waiting request')}`;
    const text = has ?? `there is no ${QUEUE}`;
    return { servers, text: servers > 0 ? text : `${text}: start a server with: npx ts-node src/rpc_server.ts` };
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
`;

function parseCommandLine() {
  const options = { timeout: { type: 'string', default: '30000' } } as const;
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const typed = positionals.join('') !== ''; // an empty argument alone is none, as in the tutorial
  const callArguments = typed ? positionals.map((text) => readArgument(Buffer.from(text))) : [DEFAULT_ARGUMENT];
  return { callArguments, timeout: wholeNumber('--timeout', values.timeout, 1) };
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
