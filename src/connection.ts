// The one way to reach RabbitMQ: where it is, how it is asked, and what happens when it goes away. Then what little
// both scripts need around it: a look at the queue, a clean way out, and output that a terminal can be trusted with.
import * as amqp from 'amqplib';
import { unescape } from 'node:querystring';
import { setTimeout as pause } from 'node:timers/promises';

/** The queue that requests wait in, whichever port of the tutorial made it. */
export const QUEUE = 'rpc_queue';

const DEFAULT_URL = 'amqp://guest:guest@localhost:5672';

export interface ConnectionOptions {
  /** Shown by the management UI as the connection's name. */
  name: string;
  /** Whether to wait for a broker that cannot be reached at first. One that was reached once is always waited for. */
  waitForBroker: boolean;
  /**
   * Runs on each new connection: opens a channel, declares, consumes. The connection is dropped, and made anew, if this
   * throws, or when a channel that was given to `watch` (which returns it) or its consumer is lost.
   */
  setUp: (connection: amqp.ChannelModel, watch: <C extends amqp.Channel>(channel: C) => C) => Promise<void>;
  /** Takes a line when the broker cannot be reached or blocks publishers, and one when that is over. */
  log: (line: string) => void;
}

/**
 * Connects to the broker at AMQP_URL with amqplib's recovery: whatever is lost (the broker, the connection, the
 * channel, the consumer), the connection is closed if it is not, and made anew, and `setUp` runs again.
 *
 * @returns the recovering connection at once; its `waitForConnect()` waits for the first `setUp`. Its event
 * `reconnect-failed` says, once, that it has given up, with an Error that says why: what the broker refuses (user,
 * virtual host, permission) or whose certificate is not trusted does not get better by waiting.
 * @throws Error if AMQP_URL is malformed; the message does not hold the URL, which may hold a password
 */
export async function openConnection(options: ConnectionOptions): Promise<amqp.RecoveringChannelModel> {
  const url = brokerUrl();
  const user = { name: 'guest', password: 'guest' };
  if (url.username || url.password) Object.assign(user, { name: unescape(url.username), password: unescape(url.password) });
  const address = `RabbitMQ at ${url.hostname}:${Number(url.port) || (url.protocol === 'amqps:' ? 5671 : 5672)}`;
  const log = (line: string) => options.log(printable(line));
  let reached = false; // at least once
  let away = false;
  let trouble = new Error('not connected yet'); // why the connection, or the last attempt at one, failed

  const onNewConnection = async (connection: amqp.ChannelModel) => {
    // amqplib listens only once this has resolved; until then an error would end the process, a close go unnoticed.
    connection.on('error', () => {});
    let lost: Error | undefined;
    const closed = new Promise<never>((_, reject) => {
      connection.once('close', (error) => {
        trouble = lost ?? error ?? new Error('the connection was closed');
        reject(trouble);
      });
    });
    const drop = (error: Error) => {
      lost ??= error;
      connection.close().catch(() => {}); // it may be closing, or closed, already
    };
    const watch = <C extends amqp.Channel>(channel: C): C => {
      channel.on('error', drop);
      channel.on('cancel', () => drop(new Error('the broker cancelled the consumer: its queue is gone')));
      return channel;
    };
    try {
      await Promise.race([options.setUp(connection, watch), closed]);
    } catch (error) {
      drop(error as Error); // or amqplib would, and wait for ever where the broker dies in the meantime
      throw error;
    }
  };

  /** Gives up by throwing, as amqplib has it, or returns the milliseconds to wait before the next attempt. */
  const calculateDelay = (attempt: number): number => {
    const refused = refusal(trouble, user.name, url, reached);
    if (refused) throw new Error(`${address} ${refused}`);
    const { message, code } = trouble instanceof AggregateError ? trouble.errors[0] : (trouble as NodeJS.ErrnoException);
    const hint = !reached && typeof code === 'string' ? '. Start one with: npm run broker' : ''; // no broker there
    const problem = `${reached ? 'Lost the connection to' : 'Cannot reach'} ${address}: ${message}${hint}`;
    if (!reached && !options.waitForBroker) throw new Error(problem);
    if (attempt % 30 === 1) log(`${problem}. Trying again until it is there.`); // about once a minute
    away = true;
    return Math.min(2_000, 100 * 2 ** attempt) * (0.75 + Math.random() / 2); // not all at once
  };

  const connection = await amqp.connect(url.href, {
    noDelay: true, // Nagle's algorithm would add 40 ms to each call.
    timeout: 5_000, // ms in which a broker that is being connected to may say nothing
    credentials: amqp.credentials.plain(user.name, user.password), // amqplib itself would take a UTF-8 URL for Latin-1
    clientProperties: { connection_name: options.name },
    recovery: { waitForConnect: false, setup: onNewConnection, calculateDelay },
  });
  connection.on('error', () => {}); // 'disconnect' and 'connect-failed' say the same
  connection.on('connect-failed', (error) => (trouble = error));
  connection.on('blocked', (reason) => log(`${address} is blocking publishers: ${reason}.`));
  connection.on('unblocked', () => log(`${address} is not blocking publishers any more.`));
  connection.on('connect', () => {
    if (away) log(`Connected to ${address}.`);
    reached = true;
    away = false;
  });
  return connection;
}

function brokerUrl(): URL {
  let url: URL | undefined;
  try {
    url = new URL(process.env.AMQP_URL || DEFAULT_URL);
  } catch {
    // Not with the error, which holds the URL.
  }
  if (url && !/^amqps?:$/.test(url.protocol)) {
    throw new Error(`AMQP_URL must begin with amqp:// or amqps://, not ${url.protocol}`);
  }
  if (!url?.hostname) throw new Error('AMQP_URL is not a URL such as amqp://user:password@host:5672/vhost');
  if (/@/.test(url.pathname + url.search + url.hash)) { // what looks like host, port or path may be the password
    throw new Error('AMQP_URL holds an @ behind the host: write / ? # @ in user and password as %2F %3F %23 %40');
  }
  const heartbeat = url.searchParams.get('heartbeat') ?? '5'; // s; RabbitMQ's 60 is past any deadline
  if (!/^\d{1,5}$/.test(heartbeat)) throw new Error(`heartbeat in AMQP_URL must be whole seconds, not "${heartbeat}"`);
  url.searchParams.set('heartbeat', heartbeat);
  return url;
}

/** What the broker or this side refuses for good, or undefined for what may get better by waiting. */
function refusal(error: Error & { code?: unknown }, user: string, url: URL, reached: boolean): string | undefined {
  const { message, code } = error;
  if (message.startsWith('Handshake terminated by server: 403')) {
    return `refuses user "${user}": wrong user name or password`;
  }
  // A virtual host that was open once may be on its way back; amqplib does not say which it is.
  if (!reached && message.startsWith('Expected ConnectionOpenOk; got <ConnectionClose')) {
    const vhost = unescape(url.pathname.slice(1)) || '/';
    return `does not open virtual host "${vhost}" to user "${user}": it is missing, closed to that user, or full`;
  }
  if (code === 403 && !message.includes('in exclusive use')) return `refuses permission: ${message}`;
  if (/CERT|SIGNATURE|ISSUER|^ERR_(TLS|SSL)/.test(String(code))) {
    const hint = /SSL/.test(String(code)) ? '' : '. NODE_EXTRA_CA_CERTS names a file of the CAs to trust';
    return `fails the TLS handshake: ${message.trim()} (${code})${hint}`;
  }
  return undefined;
}

export interface QueueState {
  consumerCount: number;
  /** Requests that wait; those in the hands of a server don't count. */
  messageCount: number;
}

/**
 * Looks at rpc_queue by declaring it passively (AMQP queue.declare), on a channel of its own, which a missing queue
 * closes. Never settles while the broker is frozen or blocks publishers.
 *
 * @returns its state, or undefined if there is no such queue
 * @throws Error for whatever else the broker says
 */
export async function inspectQueue(
  connection: amqp.ChannelModel | amqp.RecoveringChannelModel,
): Promise<QueueState | undefined> {
  const channel = await connection.createChannel();
  channel.on('error', () => {}); // checkQueue rejects with it
  try {
    const queue = await channel.checkQueue(QUEUE);
    channel.close().catch(() => {}); // not awaited: it would never settle if the connection is lost meanwhile
    return queue;
  } catch (error) {
    if ((error as { code?: number }).code === 404) return undefined;
    throw error;
  }
}

/**
 * Closes the channel and then the connection, which would overtake what the channel still has to write. Takes a
 * second at most, since neither close settles while the broker is frozen or blocks publishers. Never rejects.
 */
export async function closeConnection(connection: amqp.RecoveringChannelModel, channel?: amqp.Channel): Promise<void> {
  const closeChannel = async () => channel?.close(); // throws if it is closed already
  await atMost(700, closeChannel());
  await atMost(200, connection.close());
}

/** Waits for the promise, whatever becomes of it, for that many milliseconds at most. */
async function atMost(ms: number, promise: Promise<unknown>): Promise<void> {
  const settled = new AbortController();
  const limit = pause(ms, undefined, { signal: settled.signal });
  await Promise.race([promise, limit]).catch(() => {});
  settled.abort(); // or the timer would keep the process
  await limit.catch(() => {});
}

/** Writes a line to standard output. */
export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** Writes what is wrong to standard error, with all that could control a terminal escaped. */
export function warn(line: string): void {
  process.stderr.write(` [!] ${printable(line)}\n`);
}

/** Escapes what is no character to be seen (Unicode's category C, line separators) as \u{1b}; the rest stays. */
export function printable(text: string): string {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`);
}

/**
 * @param text a whole number of milliseconds in digits
 * @throws RangeError if it is not from `min` to 2,147,483,647, the longest that a timer of Node's waits
 */
export function parseMilliseconds(option: string, text: string, min: number): number {
  if (/^\d{1,10}$/.test(text) && Number(text) >= min && Number(text) <= 2_147_483_647) return Number(text);
  throw new RangeError(`${option} must be a whole number of milliseconds from ${min} to 2147483647; got "${text}"`);
}

/**
 * Runs a script: `main` with what `parse` makes of the command line; then ends the process with the exit status that
 * `main` resolves to. What `parse` throws is wrong usage, status 2; what `main` throws is status 1.
 */
export async function run<Args>(usage: string, parse: () => Args, main: (args: Args) => Promise<number>): Promise<void> {
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => process.exit(1)); // nobody reads it
  const work = async (): Promise<number> => {
    if (process.argv.includes('--help')) return process.stdout.write(usage), 0;
    let args: Args;
    try {
      args = parse();
    } catch (error) {
      warn((error as Error).message);
      process.stderr.write(usage);
      return 2;
    }
    return main(args);
  };
  const status = await work().catch((error: Error) => {
    warn(error.message);
    return 1;
  });
  // Not before the output has been read: process.exit() alone cuts a pipe short.
  process.stderr.write('', () => process.stdout.write('', () => process.exit(status)));
}
