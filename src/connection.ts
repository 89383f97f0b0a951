// The one way to reach RabbitMQ: where it is, how it is asked, and what happens when it goes away. Then what little
// both scripts need around it: a look at the queue, a clean way out, and output that a terminal can be trusted with.
import * as amqp from 'amqplib';
import { unescape } from 'node:querystring';
import { setTimeout as pause } from 'node:timers/promises';

/** The queue that requests wait in, whichever port of the tutorial made it. */
export const QUEUE = 'rpc_queue';

const DEFAULT_URL = 'amqp://guest:guest@localhost:5672';

export interface ConnectOptions {
  /** Shown by the management UI as the connection's name. */
  name: string;
  /** Whether to wait for a broker that cannot be reached at first. One that was reached once is always waited for. */
  waitForBroker: boolean;
  /** Runs on each new connection: declares, consumes. The connection is dropped, and made anew, if it throws. */
  setUp: (channel: amqp.Channel, connection: amqp.ChannelModel) => Promise<void>;
  /** Takes a line when the broker cannot be reached, and one when it is there again. */
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
export async function connect(options: ConnectOptions): Promise<amqp.RecoveringChannelModel> {
  const url = brokerUrl();
  const address = `RabbitMQ at ${url.hostname || 'localhost'}:${url.port || (url.protocol === 'amqps:' ? 5671 : 5672)}`;
  let connected = false; // has been, at least once
  let away = false;
  let trouble = new Error('no connection yet');

  const setup = async (connection: amqp.ChannelModel) => {
    // amqplib listens only once this has resolved; until then an error would end the process, a close go unnoticed.
    connection.on('error', () => {});
    let lost: Error | undefined;
    const closed = new Promise<never>((_, reject) => {
      connection.once('close', (error) => reject((trouble = lost ?? error ?? new Error('the connection was closed'))));
    });
    const drop = (error: Error) => {
      lost ??= error;
      connection.close().catch(() => {}); // it may be closing, or closed, already
    };
    const setUp = async () => {
      const channel = await connection.createChannel();
      channel.on('error', drop);
      channel.on('cancel', () => drop(new Error('the broker cancelled the consumer: its queue is gone')));
      await options.setUp(channel, connection);
    };
    try {
      await Promise.race([setUp(), closed]);
    } catch (error) {
      drop(error as Error); // or amqplib would, and wait for ever where the broker dies in the meantime
      throw error;
    }
  };

  /** Gives up by throwing, as amqplib has it, or returns the milliseconds to wait before the next attempt. */
  const calculateDelay = (attempt: number): number => {
    const refused = refusal(trouble, url);
    if (refused) throw new Error(`${address} ${refused}`);
    const why = trouble instanceof AggregateError ? trouble.errors[0].message : trouble.message;
    const problem = `${connected ? 'Lost the connection to' : 'Cannot reach'} ${address}: ${why}`;
    const hint = connected ? '' : '. Start one with: npm run broker';
    if (!connected && !options.waitForBroker) throw new Error(problem + hint);
    if (attempt % 30 === 1) options.log(`${problem}${hint}. Trying again until it is there.`);
    away = true;
    return Math.min(2_000, 100 * 2 ** attempt) * (0.75 + Math.random() / 2); // not all at once
  };

  const connection = await amqp.connect(url.href, {
    noDelay: true, // Nagle's algorithm would add 40 ms to each call.
    timeout: 5_000, // ms in which a broker that is being connected to may say nothing
    clientProperties: { connection_name: options.name },
    recovery: { waitForConnect: false, setup, calculateDelay },
  });
  connection.on('error', () => {}); // 'close' and 'connect-failed' say the same
  connection.on('connect-failed', (error) => (trouble = error));
  connection.on('blocked', (reason) => options.log(`${address} is blocking publishers: ${reason}`));
  connection.on('unblocked', () => options.log(`${address} is not blocking publishers any more`));
  connection.on('connect', () => {
    if (away) options.log(`Connected to ${address}.`);
    connected = true;
    away = false;
  });
  return connection;
}

function brokerUrl(): URL {
  let url: URL;
  try {
    url = new URL(process.env.AMQP_URL || DEFAULT_URL);
  } catch {
    throw new Error('AMQP_URL is not a URL such as amqp://user:password@host:5672/vhost');
  }
  if (!/^amqps?:$/.test(url.protocol)) {
    throw new Error(`AMQP_URL must begin with amqp:// or amqps://, not ${url.protocol}`);
  }
  if (/@/.test(url.pathname + url.search + url.hash)) { // what looks like host, port or path may be the password
    throw new Error('AMQP_URL holds an @ behind the host: write / ? # @ in user and password as %2F %3F %23 %40');
  }
  const heartbeat = url.searchParams.get('heartbeat') ?? '5'; // s; RabbitMQ's 60 is past any deadline
  if (!/^\d{1,5}$/.test(heartbeat)) throw new Error(`heartbeat in AMQP_URL must be whole seconds, not ${heartbeat}`);
  url.searchParams.set('heartbeat', heartbeat);
  return url;
}

/** What the broker or this side refuses for good, or undefined for what may get better by waiting. */
function refusal(error: Error & { code?: unknown }, url: URL): string | undefined {
  const user = unescape(url.username) || 'guest';
  const { message, code } = error;
  if (message.startsWith('Handshake terminated by server: 403')) {
    return `refuses user "${user}": wrong user name or password`;
  }
  if (message.startsWith('Expected ConnectionOpenOk; got <ConnectionClose')) {
    const vhost = unescape(url.pathname.slice(1)) || '/';
    return `does not open virtual host "${vhost}" to user "${user}": it is missing, or closed to that user`;
  }
  if (code === 403) return `refuses permission: ${message}`;
  if (/CERT|SIGNATURE|ISSUER|^ERR_(TLS|SSL)/.test(String(code))) {
    return `fails the TLS handshake: ${message} (${code}). NODE_EXTRA_CA_CERTS names a file of the CAs to trust`;
  }
  return undefined;
}

/**
 * Looks at rpc_queue by declaring it passively (AMQP queue.declare), on a channel of its own, which a missing queue
 * closes. Never settles while the broker is frozen or blocks publishers.
 *
 * @returns its number of consumers and of waiting messages, or undefined if there is no such queue
 * @throws Error for whatever else the broker says
 */
export async function inspectQueue(
  connection: Pick<amqp.ChannelModel, 'createChannel'>,
): Promise<amqp.Replies.AssertQueue | undefined> {
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
 * second at most, since neither close settles while the broker is frozen or blocks publishers. Never throws.
 */
export async function close(connection: amqp.RecoveringChannelModel, channel: amqp.Channel | undefined): Promise<void> {
  const closeChannel = async () => channel?.close(); // throws if it is closed already
  await Promise.race([closeChannel().catch(() => {}), pause(800)]);
  await Promise.race([connection.close(), pause(200)]);
}

/** Writes a line to standard output. */
export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** Writes what is wrong to standard error, with all that could control a terminal escaped. */
export function warn(line: string): void {
  process.stderr.write(` [!] ${printable(line)}\n`);
}

/** Escapes control, format and unassigned characters, as \u{1b}; everything else stays as it is. */
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
 * Runs a script: `parse`, and `main` with what it returns; then ends the process with the exit status that `main`
 * resolves to. What `parse` throws is wrong usage, status 2; what `main` throws is status 1.
 */
export async function run<Args>(usage: string, parse: () => Args, main: (args: Args) => Promise<number>): Promise<void> {
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => process.exit(1)); // nobody reads it
  let status = 2;
  try {
    if (process.argv.includes('--help')) {
      process.stdout.write(usage);
      status = 0;
    } else {
      const args = parse();
      status = 1;
      status = await main(args);
    }
  } catch (error) {
    warn((error as Error).message);
    if (status === 2) process.stderr.write(usage);
  }
  // Not before the output has been read: process.exit() alone cuts a pipe short.
  process.stderr.write('', () => process.stdout.write('', () => process.exit(status)));
}
