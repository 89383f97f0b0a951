// The one way to reach RabbitMQ: where it is, how it is asked, and what happens when it goes away. Then a look at the
// queue and, below a line that says so, what only the two scripts need.
import * as amqp from 'amqplib';
import { unescape } from 'node:querystring';
import { setTimeout as pause } from 'node:timers/promises';

export const QUEUE = 'rpc_queue';

export interface ConnectionOptions<Channel extends amqp.Channel> {
  /** The broker's URL. @default AMQP_URL of the environment, or else amqp://guest:guest@localhost:5672 */
  url?: string | undefined;
  name: string; // as the management UI shows it
  /** Whether to wait for a broker that is not there at first. One that was reached once is always waited for. */
  waitForBroker: boolean;
  openChannel: (connection: amqp.ChannelModel) => Promise<Channel>;
  /** Declares and consumes, on each new connection. `lost` is aborted as soon as that connection is given up. */
  setUp: (channel: Channel, connection: amqp.ChannelModel, lost: AbortSignal) => Promise<void>;
  /** Finishes what is in hand when `stop` is aborted, before channel and connection are closed. */
  finish?: () => Promise<void>;
  /** Takes a line when the broker cannot be reached or blocks publishers, and one when that is over. */
  log: (line: string) => void;
  stop: AbortSignal;
}

/**
 * Keeps a connection to the broker until `stop` is aborted. Whatever is lost (the broker, the connection, the channel,
 * the consumer), there is one way back: say so, pause, connect and set up again. Closing takes a second at most.
 *
 * @throws Error if the URL is malformed; if the broker refuses what does not get better by waiting (user, virtual host,
 * permission), or its certificate is not trusted; if it is not there at first, unless `waitForBroker`. No message holds
 * the URL, which may hold a password.
 */
export async function keepConnected<C extends amqp.Channel>(options: ConnectionOptions<C>): Promise<void> {
  const url = parseUrl(options.url);
  const address = `RabbitMQ at ${url.hostname}:${Number(url.port) || (url.protocol === 'amqps:' ? 5671 : 5672)}`;
  let reached = false; // at least once
  let saidToBeAway = false;
  let attemptsInVain = 0;
  while (!options.stop.aborted) {
    let connectedAt = Infinity; // in milliseconds, on the clock of performance.now()
    const onConnected = () => {
      connectedAt = performance.now();
      reached = true;
      if (saidToBeAway) options.log(`Connected to ${address}.`);
      saidToBeAway = false;
    };
    try {
      await holdConnection(url, address, options, onConnected);
    } catch (error) {
      if (options.stop.aborted) return;
      const refused = refusal(error as Error, url, reached);
      if (refused) throw new Error(`${address} ${refused}`);
      const problem = describeLoss(error as Error, address, reached);
      if (!reached && !options.waitForBroker) throw new Error(problem);
      // A connection that comes and goes is no better than none: the pauses grow on, the lines stay rare.
      if (performance.now() - connectedAt >= 5_000) attemptsInVain = 0;
      if (attemptsInVain % 30 === 0) { // about once a minute
        options.log(printable(`${problem}. Trying again until it is there.`));
        saidToBeAway = true;
      }
      attemptsInVain++;
      const delay = Math.min(2_000, 50 * 2 ** attemptsInVain) * (0.75 + Math.random() / 2); // not all clients at once
      await pause(delay, undefined, { signal: options.stop }).catch(() => {});
    }
  }
}

/** Holds one connection until `stop` is aborted. Rejects with the reason when it is lost before, or never there. */
async function holdConnection<C extends amqp.Channel>(
  url: URL, address: string, options: ConnectionOptions<C>, onConnected: () => void,
): Promise<void> {
  const socket = new AbortController(); // aborted, it destroys the socket, whatever the broker does or fails to do
  const { signal } = socket;
  const lose = (reason?: Error) => socket.abort(reason);
  const lost = new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  const late = setTimeout(lose, 5_000, new Error('connect ETIMEDOUT'));
  signal.addEventListener('abort', () => clearTimeout(late));
  let onStop = () => lose(new Error('stopped before it was connected'));
  options.stop.addEventListener('abort', () => onStop(), { signal }); // off again with the socket: `stop` lives long
  const socketOptions: amqp.SocketOptions & { signal: AbortSignal } = {
    noDelay: true, // Nagle's algorithm would add 40 ms to each call.
    credentials: amqp.credentials.plain(unescape(url.username), unescape(url.password)), // amqplib decodes as Latin-1
    clientProperties: { connection_name: options.name },
    signal,
  };
  const connectAndServe = async () => {
    const connection = await amqp.connect(url.href, socketOptions);
    clearTimeout(late);
    connection.on('error', lose).on('close', lose);
    connection.on('blocked', (reason) => options.log(printable(`${address} is blocking publishers: ${reason}.`)));
    connection.on('unblocked', () => options.log(`${address} is not blocking publishers any more.`));
    const channel = await options.openChannel(connection);
    channel.on('error', lose);
    channel.on('cancel', () => lose(new Error('the broker cancelled the consumer: its queue is gone')));
    await options.setUp(channel, connection, signal);
    onConnected();
    await new Promise<void>((resolve) => (onStop = resolve)); // from here on, a stop closes politely
    await options.finish?.();
    // The channel first: the connection's close overtakes what the channel has still to write.
    const closed = channel.close().then(() => connection.close());
    await Promise.race([closed, pause(1_000, undefined, { signal })]); // a frozen broker confirms no close
  };
  await Promise.race([lost, connectAndServe()]).finally(() => socket.abort());
}

function parseUrl(given: string | undefined): URL {
  const name = given === undefined ? 'AMQP_URL' : 'url';
  const text = given ?? (process.env.AMQP_URL || 'amqp://localhost');
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url?.hostname) throw new Error(`${name} is not a URL such as amqp://user:password@host:5672/vhost`);
  const { protocol } = url;
  if (!/^amqps?:$/.test(protocol)) throw new Error(`${name} must begin with amqp:// or amqps://, not ${protocol}`);
  if (/@/.test(url.pathname + url.search + url.hash)) { // what looks like host, port or path may be the password
    throw new Error(`${name} holds an @ behind the host: write / ? # @ in user and password as %2F %3F %23 %40`);
  }
  if (!url.username && !url.password) [url.username, url.password] = ['guest', 'guest'];
  const heartbeat = url.searchParams.get('heartbeat') ?? '5'; // s; with RabbitMQ's 60, a loss shows after 90 to 180
  if (!/^\d{1,5}$/.test(heartbeat)) throw new Error(`heartbeat in ${name} must be whole seconds, not "${heartbeat}"`);
  url.searchParams.set('heartbeat', heartbeat);
  return url;
}

/** What the broker or this side refuses for good, or undefined for what may get better by waiting. */
function refusal({ message, code }: Error & { code?: unknown }, url: URL, reached: boolean): string | undefined {
  const user = unescape(url.username);
  if (/^Handshake terminated.*: 403/.test(message)) return `refuses user "${user}": wrong user name or password`;
  if (code === 403 && !message.includes('in exclusive use')) return `refuses permission: ${message}`;
  if (reached) return undefined; // a virtual host, a certificate, TLS: what was there once may be on its way back
  if (message.startsWith('Expected ConnectionOpenOk; got <ConnectionClose')) { // amqplib does not say why
    const vhost = unescape(url.pathname.slice(1)) || '/';
    return `does not open virtual host "${vhost}" to user "${user}": it is missing, closed to that user, or full`;
  }
  if (!/CERT|SIGNATURE|ISSUER|^ERR_(TLS|SSL)/.test(String(code))) return undefined;
  const hint = /SSL/.test(String(code)) ? '' : '. NODE_EXTRA_CA_CERTS names a file of the CAs to trust';
  return `fails the TLS handshake: ${message.trim()} (${code})${hint}`;
}

function describeLoss(error: Error, address: string, reached: boolean): string {
  // A name with two addresses that both refuse makes an AggregateError without a message.
  const { message, code } = error instanceof AggregateError ? error.errors[0] : (error as NodeJS.ErrnoException);
  if (reached) return `Lost the connection to ${address}: ${message}`;
  const hint = code === 'ECONNREFUSED' ? '. Start one with: npm run broker' : '';
  return `Cannot reach ${address}: ${message}${hint}`;
}

/**
 * Looks at rpc_queue by declaring it passively (AMQP queue.declare), on a channel of its own, which a missing queue
 * closes. Never settles while the broker is frozen or blocks publishers.
 *
 * @returns its number of consumers and of messages that wait, or undefined if there is no such queue
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
export function printable(text: string): string {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`);
}

/** @throws RangeError if it is not a whole number in digits, from `min` to 2,147,483,647: Node's timers end there */
export function parseMilliseconds(option: string, text: string, min: number): number {
  if (/^\d{1,10}$/.test(text) && Number(text) >= min && Number(text) <= 2_147_483_647) return Number(text);
  throw new RangeError(`${option} must be a whole number of milliseconds from ${min} to 2147483647; got "${text}"`);
}

// ---------------------------------------- For the scripts alone ----------------------------------------

// Output, with all that could control a terminal escaped.
export const print = (line: string) => process.stdout.write(`${printable(line)}\n`);
export const warn = (line: string) => process.stderr.write(` [!] ${printable(line)}\n`);

/**
 * Runs `main` with what `parse` makes of the command line. What `parse` throws is wrong usage, status 2; what `main`
 * throws is status 1, and so is output that nobody takes any more: `stop` is aborted then.
 */
export async function run<T>(
  usage: string, parse: () => T, main: (commandLine: T, stop: AbortController) => Promise<void>,
): Promise<void> {
  const stop = new AbortController();
  const onOutputLost = () => {
    process.exitCode = 1;
    stop.abort();
  };
  for (const stream of [process.stdout, process.stderr]) stream.on('error', onOutputLost);
  if (process.argv.includes('--help')) return void process.stdout.write(usage);
  let status = 2;
  try {
    const commandLine = parse();
    status = 1;
    await main(commandLine, stop);
  } catch (error) {
    warn((error as Error).message.replaceAll('\n', ' '));
    if (status === 2) process.stderr.write(usage);
    process.exitCode = status;
  }
}
