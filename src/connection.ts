// The one way to reach RabbitMQ: where it is, how it is asked, and what happens when it goes away.
import * as amqp from 'amqplib';
import { unescape as decode } from 'node:querystring';
import { setTimeout as pause } from 'node:timers/promises';

export const QUEUE = 'rpc_queue';

export interface Options<Channel extends amqp.Channel> {
  /** @default AMQP_URL of the environment, or else amqp://guest:guest@localhost:5672 */
  url?: string | undefined;
  name: string; // as the management UI shows it
  waitForBroker: boolean; // also where it is not there at first; one that was reached once is always waited for
  openChannel: (connection: amqp.ChannelModel) => Promise<Channel>;
  /**
   * Declares and consumes, on each new connection; `lost` is aborted as soon as that is given up. May resolve to what
   * finishes the work in hand when `stop` is aborted, before channel and connection are closed.
   */
  setUp: (channel: Channel, connection: amqp.ChannelModel, lost: AbortSignal) => Promise<void | (() => unknown)>;
  /** Takes a line when the broker is lost or blocks publishers, and one when that is over. Must not throw. */
  log: (line: string) => void;
  stop: AbortSignal;
}

/**
 * Keeps a connection to the broker until `stop` is aborted. Whatever is lost (the broker, the connection, the channel,
 * the consumer), there is one way back: say so, pause, connect and set up again. Closing takes a second at most.
 *
 * @throws Error if the URL is malformed or a permission is missing; as long as the broker was never reached, also if it
 * refuses user or virtual host, if TLS fails, or if it is not there (unless `waitForBroker`). None shows the password.
 */
export async function keepConnected<C extends amqp.Channel>(options: Options<C>): Promise<void> {
  const url = parseUrl(options.url);
  let reached = false; // at least once
  let said: 'away' | 'refusing' | undefined;
  let attemptsInVain = 0;
  while (!options.stop.aborted) {
    let connectedAt: number | undefined; // in ms, on the clock of performance.now()
    const onConnected = () => {
      connectedAt = performance.now();
      reached = true;
      if (said) options.log(`Connected to ${nameOf(url)}.`);
      said = undefined;
    };
    try {
      await holdConnection(url, options, onConnected);
    } catch (error) {
      if (options.stop.aborted) return;
      const always = finalAlways(error as Error);
      const refusal = always ?? finalAtTheStart(error as Error, url);
      const reason = refusal ?? describeLoss(error as Error, reached);
      const problem = `${reached ? 'Lost the connection to' : 'Cannot reach'} ${nameOf(url)}: ${reason}`;
      if (always || (!reached && (refusal || !options.waitForBroker))) throw new Error(problem, { cause: error });
      // A connection that comes and goes is no better than none: the pauses grow on, the lines stay rare.
      if (connectedAt !== undefined && performance.now() - connectedAt >= 5_000) attemptsInVain = 0;
      if (attemptsInVain % 30 === 0 || (refusal && said !== 'refusing')) { // about once a minute
        options.log(`${problem}. Trying again until it is there.`);
        said = refusal ? 'refusing' : 'away';
      }
      attemptsInVain++;
      // Simulated (test/load/pauses.ts), 1,000 handshakes a second: 10,000 are back in 10 s. 100,000 need 30_000 here.
      const delay = Math.min(2_000, 50 * 2 ** attemptsInVain) * (0.75 + Math.random() / 2); // not all clients at once
      await pause(delay, undefined, { signal: options.stop }).catch(() => {});
    }
  }
}

/** Holds one connection. Rejects when it is lost, or was never there, or is closed since `stop` is aborted. */
async function holdConnection<C extends amqp.Channel>(url: URL, options: Options<C>, onConnected: () => void) {
  const loss = new AbortController(); // aborted, it destroys the socket, whatever the broker does or fails to do
  const { signal } = loss;
  const lost = new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  // From the socket to the end of the set-up, any of which may never come: RabbitMQ's own handshake_timeout.
  const limit = setTimeout(() => loss.abort(new Error('connect ETIMEDOUT')), 10_000);
  let close = async () => {}; // politely, as soon as there is something to close
  // Off again with the connection: `stop` lives long.
  options.stop.addEventListener('abort', () => close().catch(() => {}).then(() => loss.abort()), { signal });
  try {
    close = await Promise.race([lost, open(url, options, loss)]).finally(() => clearTimeout(limit));
    onConnected();
    await lost;
  } finally {
    loss.abort();
  }
}

/** Connects, opens the channel and sets it up. Resolves to what finishes the work in hand and closes both. */
async function open<C extends amqp.Channel>(url: URL, options: Options<C>, loss: AbortController) {
  const socketOptions: amqp.SocketOptions & { signal: AbortSignal } = {
    noDelay: true, // Nagle's algorithm would add 40 ms to each call.
    credentials: amqp.credentials.plain(decode(url.username), decode(url.password)), // amqplib decodes as Latin-1
    clientProperties: { connection_name: options.name },
    signal: loss.signal,
  };
  const connection = await amqp.connect(url.href, socketOptions);
  const lose = (reason?: Error) => loss.abort(reason);
  connection.on('error', lose).on('close', lose);
  connection.on('blocked', (reason) => options.log(`${nameOf(url)} is blocking publishers: ${reason}.`));
  connection.on('unblocked', () => options.log(`${nameOf(url)} is not blocking publishers any more.`));
  const channel = await options.openChannel(connection);
  channel.on('error', lose).on('cancel', () => lose(new Error('the broker cancelled the consumer')));
  const finish = await options.setUp(channel, connection, loss.signal);
  return async () => {
    await finish?.();
    // The channel first: the connection's close overtakes what it has still to write. A frozen broker confirms neither.
    const closed = channel.close().then(() => connection.close());
    await Promise.race([closed, pause(1_000, undefined, { signal: loss.signal })]);
  };
}

function parseUrl(given: string | undefined): URL {
  const name = given === undefined ? 'AMQP_URL' : 'url';
  const text = given ?? (process.env.AMQP_URL || 'amqp://localhost');
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url?.hostname) throw new Error(`${name} is not a URL such as amqp://user:password@host:5672/vhost`);
  if (!/^amqps?:$/.test(url.protocol)) throw new Error(`${name} must begin with amqp: or amqps:, not ${url.protocol}`);
  if (/@/.test(url.pathname + url.search + url.hash)) { // what looks like host, port or path may be the password
    throw new Error(`${name} holds an @ behind the host: write / ? # @ in user and password as %2F %3F %23 %40`);
  }
  if (!url.username && !url.password) [url.username, url.password] = ['guest', 'guest'];
  const heartbeat = url.searchParams.get('heartbeat') ?? '5'; // s; with RabbitMQ's 60, a loss shows after 90 to 180
  if (!/^\d{1,5}$/.test(heartbeat)) throw new Error(`heartbeat in ${name} must be whole seconds, not "${heartbeat}"`);
  url.searchParams.set('heartbeat', heartbeat);
  return url;
}

const nameOf = (url: URL) => `RabbitMQ at ${url.hostname}:${url.port || (url.protocol === 'amqps:' ? 5671 : 5672)}`;

// A permission is missing: it shows when something is declared, consumed or published.
function finalAlways({ message, code }: Error & { code?: unknown }): string | undefined {
  if (code === 403 && !message.includes('in exclusive use')) return `it refuses permission: ${message}`;
}

// Later these may be an outage of what stands behind the broker, or before it.
function finalAtTheStart({ message, code }: Error & { code?: unknown }, url: URL): string | undefined {
  const [user, vhost] = [decode(url.username), decode(url.pathname.slice(1)) || '/'];
  if (/^Handshake terminated.*: 403/.test(message)) return `it refuses user "${user}": wrong user name or password`;
  if (message.startsWith('Expected ConnectionOpenOk; got <ConnectionClose')) { // amqplib does not say why
    return `it does not open virtual host "${vhost}" to user "${user}": it is missing, closed to that user, or full`;
  }
  if (!/CERT|SIGNATURE|ISSUER|^ERR_(TLS|SSL)/.test(String(code))) return undefined;
  const hint = /SSL/.test(String(code)) ? '' : '. NODE_EXTRA_CA_CERTS names a file of the CAs to trust';
  return `it fails the TLS handshake: ${message.trim()} (${code})${hint}`;
}

function describeLoss(error: Error, reached: boolean): string {
  // A name with two addresses that both refuse makes an AggregateError without a message.
  const { message, code } = error instanceof AggregateError ? error.errors[0] : (error as NodeJS.ErrnoException);
  return code === 'ECONNREFUSED' && !reached ? `${message}. Start one with: npm run broker` : message;
}

/**
 * Looks at rpc_queue by declaring it passively (AMQP queue.declare), on a channel of its own, which a missing queue
 * closes. Never settles while the broker is frozen or blocks publishers.
 *
 * @returns its number of consumers and of messages that wait, or undefined if there is no such queue
 * @throws Error if the connection is lost; with the `code` 403 without a permission on it, 405 if it is exclusive
 */
export async function inspectQueue(connection: amqp.ChannelModel): Promise<amqp.Replies.AssertQueue | undefined> {
  const channel = await connection.createChannel();
  channel.on('error', () => {}); // checkQueue rejects with it
  const ifMissing = (error: { code?: number }) => (error.code === 404 ? undefined : Promise.reject(error));
  const queue = await channel.checkQueue(QUEUE).catch(ifMissing);
  channel.close().catch(() => {}); // not awaited: it would never settle if the connection is lost meanwhile
  return queue;
}

/** Escapes what is no character to be seen (Unicode's category C, line separators) as \u{1b}; the rest stays. */
export const printable = (text: string): string =>
  text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`);

/** @throws RangeError if it is not a whole number from `min` to `max`, by default Node's longest timer, in ms */
export function wholeNumber(name: string, given: number | string, min: number, max = 2_147_483_647): number {
  const value = typeof given === 'number' || /^\d+$/.test(given) ? Number(given) : NaN;
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw new RangeError(`${name} must be a whole number from ${min} to ${max}; got "${given}"`);
}

// ---------------------------------------- For the scripts alone ----------------------------------------

// Output, with all that could control a terminal escaped.
export const print = (line: string) => process.stdout.write(`${printable(line)}\n`);
export const warn = (line: string) => process.stderr.write(` [!] ${printable(line)}\n`);

const BROKER = "The environment's AMQP_URL names the broker (default amqp://guest:guest@localhost:5672).\n";

/** Runs `main` with what `parse` makes of the command line. Wrong usage ends with status 2, all else with 1. */
export async function run<T>(usage: string, parse: () => T, main: (commandLine: T) => Promise<void>): Promise<void> {
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => process.exit(1)); // nobody takes it
  if (process.argv.includes('--help')) return void process.stdout.write(usage + BROKER);
  let commandLine: T | undefined;
  try {
    commandLine = parse();
    await main(commandLine);
  } catch (error) {
    warn((error as Error).message.replaceAll('\n', ' '));
    process.exitCode = commandLine ? 1 : 2;
    if (!commandLine) process.stderr.write(usage + BROKER);
  }
}
