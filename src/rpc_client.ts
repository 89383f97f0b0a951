// The RPC client: one reply queue for all calls, and a correlation id for each. The class carries
// any text, and can be copied with connection.ts, without the script and its imports.
import type { Channel, ConsumeMessage, Replies } from 'amqplib';
import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { QUEUE, inspectQueue, keepConnected, openSession, parseUrl, toBody } from './connection';
import { wholeNumber, type Session } from './connection';
import { print, run, warn } from './connection'; // for the script, as parseN and parseArgs are
import { parseN } from './fib';

/**
 * Calls a function that runs on a server. A call ends by its reply, by its timeout or by close().
 * It waits for a server, and for a lost connection to come back; after that the request is sent
 * again. So the function may run twice for a call, and must be idempotent.
 * @example
 * const client = await RpcClient.connect();
 * console.log(await client.call('30')); // '832040'
 * await client.close();
 */
export class RpcClient {
  readonly #calls = new Map<string, Call>(); // without a reply so far, by correlation id
  #link: Link | undefined; // none while RabbitMQ lacks memory or disk, and blocks publishers
  readonly #stop = new AbortController();
  #ended = Promise.resolve();
  private constructor() {}

  /** `url` is AMQP_URL by default; `log` must not throw. @throws Error if it cannot connect now */
  static async connect({ url, log = () => {} }: RpcClientOptions = {}): Promise<RpcClient> {
    const client = new RpcClient();
    const setUp = (session: Session) => client.#openReplyQueue(session);
    const { signal: stop } = client.#stop;
    const options = { url: parseUrl(url), name: 'rpc_client', setUp, log, stop };
    client.#ended = keepConnected(options, await openSession(options));
    return client;
  }

  /** The tutorial's callback queue, on each new connection. Its name goes with every request. */
  async #openReplyQueue(session: Session): Promise<void> {
    const { connection, channel } = session;
    const { queue: replyTo } = await channel.assertQueue('', { exclusive: true, durable: false });
    await channel.consume(replyTo, (reply) => reply && this.#onReply(reply), { noAck: true });
    channel.on('return', ({ properties }) => this.#onReturn(properties.correlationId));
    connection.on('blocked', () => this.#useLink(undefined));
    connection.on('unblocked', () => this.#useLink({ ...session, replyTo }));
    this.#useLink({ ...session, replyTo });
  }

  #useLink(link: Link | undefined): void {
    this.#link = link;
    for (const id of this.#calls.keys()) this.#send(id);
  }

  /**
   * @param request any text, of 16 MiB at most
   * @param timeout in milliseconds, a whole number from 1 to 2,147,483,647
   * @throws RpcError, whose `code` says why; RangeError if request or timeout is out of range
   */
  async call(request: string, { timeout = 30_000 } = {}): Promise<string> {
    const body = toBody(request);
    if (typeof timeout !== 'number') throw new RangeError('timeout must be a number, in ms');
    wholeNumber('timeout', String(timeout), 1);
    if (this.#stop.signal.aborted) throw new RpcError('CLOSED', 'the client is closed');
    const id = randomUUID();
    const timer = setTimeout(() => {
      this.#calls.get(id)?.reject(new RpcError('TIMEOUT', `no reply within ${timeout} ms`));
    }, timeout);
    const deadline = performance.now() + timeout;
    try {
      return await new Promise((resolve, reject) => {
        this.#calls.set(id, { body, deadline, resendDelay: 500, resolve, reject });
        this.#send(id);
      });
    } finally {
      clearTimeout(timer);
      this.#calls.delete(id);
    }
  }

  /** Sends the request of a call that waits, unless it was sent on this channel already. */
  #send(id: string): void {
    const [call, link] = [this.#calls.get(id), this.#link];
    if (!call || !link || link.lost.aborted || call.sentOn === link.channel) return;
    call.sentOn = link.channel;
    link.channel.sendToQueue(QUEUE, call.body, {
      correlationId: id, // which call a reply belongs to
      replyTo: link.replyTo, // where the reply goes
      contentType: 'text/plain',
      // In ms. After that nobody waits for the reply, and RabbitMQ drops the request.
      expiration: Math.max(1, Math.ceil(call.deadline - performance.now())),
      mandatory: true, // comes back if there is no rpc_queue
    });
  }

  /** Matches a reply to its call. One that no call waits for came twice, or late: ignored. */
  #onReply({ properties, content }: ConsumeMessage): void {
    const call = this.#calls.get(properties.correlationId);
    if (properties.type === 'error') call?.reject(new RpcError('SERVER', content.toString()));
    else call?.resolve(content.toString());
  }

  /** There is no rpc_queue: the request is sent again later, after pauses that grow. */
  #onReturn(id: string): void {
    const call = this.#calls.get(id);
    if (!call) return;
    delete call.sentOn;
    setTimeout(() => this.#send(id), call.resendDelay).unref();
    call.resendDelay = Math.min(2_000, call.resendDelay * 2);
  }

  /** Looks at rpc_queue, and says what is there. Takes a second at most, and never rejects. */
  async describeQueue(): Promise<string> {
    if (!this.#link) return 'RabbitMQ is away, or is blocking publishers';
    const description = inspectQueue(this.#link.connection).then(describe, describeError);
    return Promise.race([description, pause(1_000, 'RabbitMQ does not answer', { ref: false })]);
  }

  /** Rejects the calls that wait, and all later ones, and closes the connection within a second. */
  async close(): Promise<void> {
    this.#stop.abort();
    const closed = new RpcError('CLOSED', 'the client is closed');
    for (const call of this.#calls.values()) call.reject(closed);
    await this.#ended;
  }

  readonly [Symbol.asyncDispose] = () => this.close(); // for `await using`
}

/** Why a call has failed: no reply in time, an error of the server, or the client is closed. */
export class RpcError extends Error {
  override readonly name = 'RpcError';
  readonly code: 'TIMEOUT' | 'SERVER' | 'CLOSED';

  constructor(code: RpcError['code'], message: string) {
    super(message);
    this.code = code;
  }
}

type RpcClientOptions = { url?: string; log?: (line: string) => void };
type Link = Session & { replyTo: string }; // the name of the reply queue
interface Call {
  body: Buffer;
  deadline: number; // in ms, on the clock of performance.now()
  resendDelay: number; // in ms
  sentOn?: Channel;
  resolve: (reply: string) => void;
  reject: (error: RpcError) => void;
}

const describeError = (error: Error) => `${QUEUE} cannot be seen: ${error.message}`;
function describe(queue: Replies.AssertQueue | undefined): string {
  const start = 'start a server with: npx ts-node src/rpc_server.ts';
  if (!queue) return `there is no ${QUEUE}: ${start}`;
  const count = (n: number, noun: string) => `${n} ${noun}${n === 1 ? '' : 's'}`;
  const servers = count(queue.consumerCount, 'server');
  const text = `${QUEUE} has ${servers} and ${count(queue.messageCount, 'waiting request')}`;
  return queue.consumerCount > 0 ? text : `${text}: ${start}`;
}

// ----------------------------------------- The script -----------------------------------------
const USAGE = `Usage: npx ts-node src/rpc_client.ts [--timeout MS] [N ...]
Asks the servers for fib(N), for each N at once; N is 0 to 10000 (default 30).
  --timeout MS  wait for an answer for at most MS milliseconds, 1 to 2147483647 (default 30000)
`;

function parseCommandLine() {
  const options = { timeout: { type: 'string', default: '30000' } } as const;
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const texts = positionals.join('') ? positionals : ['30']; // '' is none, as in the tutorial
  return { numbers: texts.map(parseN), timeout: wholeNumber('--timeout', values.timeout, 1) };
}

async function main({ numbers, timeout }: ReturnType<typeof parseCommandLine>): Promise<void> {
  const client = await RpcClient.connect({ log: warn });
  const answers = numbers.map(async (n) => {
    print(` [x] Requesting fib(${n})`);
    try {
      const result = await client.call(String(n), { timeout });
      print(numbers.length === 1 ? ` [.] Got ${result}` : ` [.] fib(${n}) = ${result}`);
    } catch (error) {
      warn(`fib(${n}): ${(error as Error).message}`);
      process.exitCode = 1;
    }
  });
  const isSilent = await Promise.race([...answers, pause(1_000, true, { ref: false })]);
  const description = isSilent && (await Promise.race([...answers, client.describeQueue()]));
  if (description) warn(`No reply for a second: ${description}`);
  await Promise.all(answers);
  await client.close();
}

if (require.main === module) void run(USAGE, parseCommandLine, main);
