// The RPC client: one exclusive reply queue for all calls; the correlation id says which call a reply belongs to.
// The class is for programs of your own; the script below it calls it from the command line.
import { IllegalOperationError } from 'amqplib';
import type { ChannelModel, ConfirmChannel, ConsumeMessage, Message, RecoveringChannelModel } from 'amqplib';
import { randomUUID } from 'node:crypto';
import { parseArgs } from 'node:util';
import { QUEUE, closeConnection, inspectQueue, openConnection } from './connection';
import { parseMilliseconds, print, printable, run, warn } from './connection';
import { MAX_DIGITS, parseArgument } from './fib';

const USAGE = `Usage: npx ts-node src/rpc_client.ts [--timeout MS] [N ...]

Asks the servers for fib(N), for each N at once; N is 0 to 1000000 (default 30).

  --timeout MS  wait for an answer for at most MS milliseconds, 1 to 2147483647 (default 30000)
  --help        print this

Environment:
  AMQP_URL      the broker (default amqp://guest:guest@localhost:5672)

Exit status: 0 every call was answered, 1 one was not, 2 wrong usage
`;

const START_A_SERVER = 'start a server with: npx ts-node src/rpc_server.ts';
const NO_QUEUE = `there is no ${QUEUE}: ${START_A_SERVER}`;

/**
 * Time in ms for servers to return, too, after the client has: until then a missing rpc_queue is no reason to fail. It
 * does not begin anew while it runs, or a full queue, which makes the client connect anew, would renew it for ever.
 */
const RETURN_OF_SERVERS = 10_000;

export interface RpcClientOptions {
  /** Max time to wait for the connection, in milliseconds, 1 to 2,147,483,647. @default 30_000 */
  timeout?: number;
  /** Takes a line on what happens besides the calls: connection lost and found, no reply yet. @default none */
  log?: (line: string) => void;
}

export interface CallOptions {
  /** Max time to wait for the reply, in milliseconds, 1 to 2,147,483,647. @default 30_000 */
  timeout?: number;
}

interface Call {
  n: number;
  /** In milliseconds, on the clock of performance.now(). */
  deadline: number;
  /** Rejects the call at its deadline. */
  timer: NodeJS.Timeout;
  /** Whether to try again, until the deadline, where there is no rpc_queue: its servers may be on their way back. */
  patient: boolean;
  retry?: NodeJS.Timeout;
  resolve: (value: bigint) => void;
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
  readonly #connection: RecoveringChannelModel;
  readonly #lastSeen: LastSeen;
  readonly #silence = setTimeout(() => this.#onSilence(), 1_000).unref();
  #silenceTold = false;
  #model: ChannelModel | undefined; // the connection as it is now, and its channel
  #channel: ConfirmChannel | undefined;
  #replyQueue = '';
  #patientUntil = 0;
  #ended: Error | undefined;

  private constructor(connection: RecoveringChannelModel, log: (line: string) => void) {
    this.#connection = connection;
    this.#log = log;
    this.#lastSeen = new LastSeen(connection);
    connection.on('reconnect-failed', (error) => this.#end(error));
    connection.on('disconnect', () => this.#lastSeen.note('the connection to the broker is lost'));
    connection.on('blocked', (reason) => this.#lastSeen.note(`the broker is blocking publishers (${printable(reason)})`));
    connection.on('unblocked', () => void this.#lastSeen.look());
  }

  /**
   * Connects to the broker at AMQP_URL and opens the reply queue.
   *
   * @throws Error if there is no broker, if it refuses the client, or if it has not answered within the timeout
   * @throws RangeError if the timeout is not a whole number of milliseconds in its range
   */
  static async connect({ timeout = 30_000, log = () => {} }: RpcClientOptions = {}): Promise<RpcClient> {
    parseMilliseconds('timeout', String(timeout), 1);
    const connection = await openConnection({
      name: 'rpc_client',
      waitForBroker: false,
      setUp: async (model, watch) => client.#setUp(model, watch(await model.createConfirmChannel())),
      log,
    });
    const client = new RpcClient(connection, log);
    const late = setTimeout(() => {
      client.#end(new Error(`the broker has not answered within ${timeout} ms`));
      void connection.close(); // which rejects the wait for it
    }, timeout);
    try {
      await connection.waitForConnect();
      return client;
    } catch (error) {
      const reason = client.#ended ?? error;
      await client.close();
      throw reason;
    } finally {
      clearTimeout(late);
    }
  }

  /** The callback queue of the tutorial. What is still unanswered is sent again, with its new name to reply to. */
  async #setUp(model: ChannelModel, channel: ConfirmChannel): Promise<void> {
    const { queue } = await channel.assertQueue('', { exclusive: true, durable: false });
    await channel.consume(queue, (reply) => reply && this.#onReply(reply), { noAck: true });
    channel.on('return', (request) => this.#onReturn(request));
    const now = performance.now();
    if (this.#channel && now > this.#patientUntil) this.#patientUntil = now + RETURN_OF_SERVERS; // connected once before
    this.#model = model;
    this.#channel = channel;
    this.#replyQueue = queue;
    for (const [id, call] of this.#pending) {
      call.patient = true;
      this.#send(id, call);
    }
  }

  /**
   * Calls fib(n) on a server.
   *
   * @param n a whole number from 0 to 1,000,000
   * @returns fib(n); rejects with an Error if the server reports one, if the reply is not a number, if there is no
   * rpc_queue or the broker refuses the request, if the timeout is over, or if the client is closed or has lost its
   * broker for good; with a RangeError if n or the timeout is out of its range
   */
  call(n: number, { timeout = 30_000 }: CallOptions = {}): Promise<bigint> {
    return new Promise((resolve, reject) => {
      parseArgument(n);
      parseMilliseconds('timeout', String(timeout), 1);
      if (this.#ended) throw this.#ended;
      if (this.#pending.size === 0) {
        this.#silenceTold = false;
        this.#silence.refresh();
      }
      const id = randomUUID();
      const onDeadline = () => {
        this.#settle(id)?.reject(new Error(`no reply within ${timeout} ms; when last seen, ${this.#lastSeen.text}`));
      };
      const call: Call = {
        n,
        deadline: performance.now() + timeout,
        timer: setTimeout(onDeadline, timeout),
        patient: performance.now() < this.#patientUntil,
        resolve,
        reject,
      };
      this.#pending.set(id, call);
      this.#send(id, call);
      void this.#lastSeen.look();
    });
  }

  #send(id: string, call: Call): void {
    clearTimeout(call.retry);
    const options = {
      contentType: 'text/plain',
      correlationId: id,
      replyTo: this.#replyQueue,
      mandatory: true, // comes back at once where there is no rpc_queue
      expiration: Math.max(1, Math.ceil(call.deadline - performance.now())), // is not computed for nobody
    };
    const channel = this.#channel!;
    try {
      channel.sendToQueue(QUEUE, Buffer.from(String(call.n)), options, (error) => this.#onConfirm(id, error));
    } catch (error) {
      if (!(error instanceof IllegalOperationError)) throw error;
      // The channel is closed: the set-up of the next one will send the request.
    }
  }

  /** Matches a reply to its call. A reply that no call waits for came twice or too late, and is dropped. */
  #onReply({ properties, content }: ConsumeMessage): void {
    this.#silence.refresh();
    void this.#lastSeen.look();
    const call = this.#settle(properties.correlationId);
    const text = content.toString('utf8', 0, MAX_DIGITS + 1);
    const shown = () => printable(JSON.stringify(text.slice(0, 40)));
    if (!call) this.#log(`Dropped a reply that no call waits for: ${shown()}`);
    else if (properties.type === 'error') call.reject(new Error(printable(text.slice(0, 500)) || 'unknown error'));
    else if (/^\d+$/.test(text) && text.length <= MAX_DIGITS) call.resolve(BigInt(text));
    else call.reject(new Error(`the reply is not a number: it begins with ${shown()} and has ${content.length} bytes`));
  }

  /** Gets a request back from the broker, which has no rpc_queue to put it into. */
  #onReturn({ properties }: Message): void {
    const id = properties.correlationId;
    const call = this.#pending.get(id);
    this.#lastSeen.note(NO_QUEUE);
    if (call?.patient) {
      const again = () => this.#pending.has(id) && this.#send(id, call);
      call.retry = setTimeout(again, 1_000).unref();
    } else {
      this.#settle(id)?.reject(new Error(NO_QUEUE));
    }
  }

  /**
   * Hears whether the broker has taken the request. It refuses one (nack) where rpc_queue is full, or where it has lost
   * sight of the queue's leader, which it may never find again on this channel, but will on a new one.
   */
  #onConfirm(id: string, error: Error | null): void {
    if (error?.message !== 'message nacked') return; // taken; or the channel is closed, and the next set-up sends again
    const model = this.#model;
    if (performance.now() < this.#patientUntil) setTimeout(() => model?.close().catch(() => {}), 1_000).unref();
    else this.#settle(id)?.reject(new Error(`the broker refuses the request: ${QUEUE} is full, or has no leader`));
  }

  /** After each second in which calls were pending and no reply came: looks at the queue, and says so, once. */
  async #onSilence(): Promise<void> {
    if (this.#pending.size === 0) return;
    this.#silence.refresh();
    await this.#lastSeen.look();
    if (this.#silenceTold || this.#pending.size === 0) return;
    this.#silenceTold = true;
    this.#log(`No reply for a second: ${this.#lastSeen.text}`);
  }

  /** Takes the call off the list of those pending, if it is on it. */
  #settle(id: string): Call | undefined {
    const call = this.#pending.get(id);
    clearTimeout(call?.timer);
    clearTimeout(call?.retry);
    this.#pending.delete(id);
    return call;
  }

  #end(error: Error): void {
    this.#ended ??= error;
    clearTimeout(this.#silence);
    for (const id of this.#pending.keys()) this.#settle(id)?.reject(this.#ended);
  }

  /**
   * Rejects the calls that are pending and any that come later, and closes the connection: in a second at most, after
   * which a frozen broker may still hold the socket, and with it a process that does not call process.exit().
   */
  async close(): Promise<void> {
    this.#end(new Error('the client is closed'));
    await closeConnection(this.#connection, this.#channel);
  }
}

/** What a call without a reply can say of the reason: kept, since a frozen broker would not answer when it is asked. */
class LastSeen {
  text = `${QUEUE} was not looked at`;
  #lookedAt = -Infinity; // in milliseconds, on the clock of performance.now()
  #looking: Promise<void> | undefined;

  constructor(readonly connection: RecoveringChannelModel) {}

  /** Takes what is so until the next look. */
  note(text: string): void {
    this.text = text;
    this.#lookedAt = -Infinity;
  }

  /** Looks at the queue, unless that was done in the last 100 ms. Never rejects. */
  look(): Promise<void> {
    if (performance.now() - this.#lookedAt < 100) return Promise.resolve();
    this.#looking ??= this.#inspect()
      .catch(() => {}) // the connection is lost: the next look will tell
      .finally(() => (this.#looking = undefined));
    return this.#looking;
  }

  async #inspect(): Promise<void> {
    const queue = await inspectQueue(this.connection);
    this.#lookedAt = performance.now();
    const count = (n: number, noun: string) => `${n} ${noun}${n === 1 ? '' : 's'}`;
    this.text = queue
      ? `${QUEUE} has ${count(queue.consumerCount, 'server')} and ${count(queue.messageCount, 'waiting request')}`
      : NO_QUEUE;
    if (queue?.consumerCount === 0) this.text += `: ${START_A_SERVER}`;
  }
}

function parseCommandLine(): { numbers: number[]; timeout: number } {
  const options = { timeout: { type: 'string', default: '30000' } } as const;
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const numbers = positionals.join('') === '' ? ['30'] : positionals; // as the tutorial has it
  return { numbers: numbers.map(parseArgument), timeout: parseMilliseconds('--timeout', values.timeout, 1) };
}

async function request({ numbers, timeout }: { numbers: number[]; timeout: number }): Promise<number> {
  const client = await RpcClient.connect({ timeout, log: warn });
  let status = 0;
  const call = async (n: number) => {
    print(` [x] Requesting fib(${n})`);
    try {
      const value = await client.call(n, { timeout });
      print(numbers.length === 1 ? ` [.] Got ${value}` : ` [.] fib(${n}) = ${value}`);
    } catch (error) {
      warn(`fib(${n}): ${(error as Error).message}`);
      status = 1;
    }
  };
  await Promise.all(numbers.map(call));
  await client.close();
  return status;
}

if (require.main === module) void run(USAGE, parseCommandLine, request);
