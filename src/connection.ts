// What both sides share: a connection that comes back, a look at rpc_queue, and the terminal.
import { connect, credentials, type Channel, type ChannelModel } from 'amqplib';
import { once } from 'node:events';
import { unescape as decode } from 'node:querystring'; // as UTF-8; amqplib takes Latin-1
import { setTimeout as pause } from 'node:timers/promises';

export const QUEUE = 'rpc_queue';

export interface ConnectionOptions {
  url: URL; // from parseUrl
  name: string; // of the connection, in the management UI
  setUp: (session: Session) => Promise<void>; // declares and consumes, on each new connection
  log: (line: string) => void; // must not throw
  stop: AbortSignal; // once it is aborted, the connection is closed, and no other is made
}

/** A connection and its channel, until either of them is lost. */
export interface Session {
  connection: ChannelModel;
  channel: Channel;
  lost: AbortSignal; // aborted as soon as the connection, the channel or its consumer is lost
  abandon: (reason?: Error) => void; // aborts `lost`, and so destroys the socket
  finishWork?: () => Promise<unknown>; // may be set by setUp: what to await before closing
}

/**
 * Keeps a connection until `stop` is aborted, beginning with `session` if it is there. Whatever is
 * lost, there is one way back: log it, pause, connect, and set up again. Never rejects.
 * amqplib's `recovery` would not be enough: it does not notice when only a channel or a consumer is
 * lost, and it waits without a limit for a broker that accepts a connection and then says nothing.
 */
export async function keepConnected(options: ConnectionOptions, session?: Session): Promise<void> {
  const { url, log, stop } = options;
  let failures = 0;
  let problem = ''; // the last one in the log
  const onSteady = () => {
    if (problem) log(`Connected to RabbitMQ at ${url.host} for ten seconds now`);
    [failures, problem] = [0, ''];
  };
  while (!stop.aborted) {
    let steady: NodeJS.Timeout | undefined; // runs onSteady, unless the session is lost before
    try {
      session ??= await openSession(options);
      steady = setTimeout(onSteady, 10_000);
      if (!stop.aborted) await useSession(session, options);
    } catch (error) {
      if (stop.aborted) return;
      const { message } = error as Error;
      if (message !== problem) log(`${message}; trying again`);
      problem = message;
    } finally {
      clearTimeout(steady);
      session?.abandon();
      session = undefined;
    }
    // In ms, give or take a half, so that not all clients come back at the same time.
    const delay = Math.min(2_000, 100 * 2 ** failures++) * (0.5 + Math.random());
    await pause(delay, undefined, { signal: stop }).catch(() => {});
  }
}

/** Connects and sets up, in ten seconds at most. @throws Error that says why it cannot */
export async function openSession({ url, name, setUp, log, stop }: ConnectionOptions) {
  const controller = new AbortController();
  const abandon = (reason?: Error) => controller.abort(reason); // the first reason is kept
  const limit = setTimeout(abandon, 10_000, new Error('no answer within ten seconds'));
  const abandonAtStop = () => abandon();
  stop.addEventListener('abort', abandonAtStop);
  try {
    const connection = await connect(url.href, socketOptions(url, name, controller.signal));
    connection.on('error', abandon).on('close', abandon);
    connection.on('blocked', (reason) => log(`RabbitMQ is blocking publishers: ${reason}`));
    connection.on('unblocked', () => log('RabbitMQ is not blocking publishers any more'));
    const channel = await connection.createChannel();
    channel.on('error', abandon);
    channel.on('cancel', () => abandon(new Error('RabbitMQ cancelled the consumer')));
    const session: Session = { connection, channel, lost: controller.signal, abandon };
    await setUp(session);
    return session;
  } catch (error) {
    abandon(error as Error);
    throw connectionError('Cannot connect to', url, controller.signal.reason);
  } finally {
    clearTimeout(limit);
    stop.removeEventListener('abort', abandonAtStop);
  }
}

const socketOptions = (url: URL, connection_name: string, signal: AbortSignal) => ({
  noDelay: true, // Nagle's algorithm would add 40 ms to each call
  credentials: credentials.plain(decode(url.username || 'guest'), decode(url.password || 'guest')),
  clientProperties: { connection_name },
  signal, // aborting it destroys the socket; then amqplib's promises reject, except close()
});

/** Waits for `stop`, and then closes the session. @throws Error if it is lost before */
async function useSession(session: Session, { url, stop }: ConnectionOptions): Promise<void> {
  const { connection, channel, lost, finishWork } = session;
  await once(stop, 'abort', { signal: lost }).catch(() => {
    throw connectionError('Lost the connection to', url, lost.reason);
  });
  await Promise.race([finishWork?.(), once(lost, 'abort')]);
  // The channel first: connection.close() overtakes what a channel still sends. Both can hang.
  const closed = channel.close().then(() => connection.close());
  await Promise.race([closed, pause(1_000, undefined, { signal: lost })]); // or until it is lost
}

function connectionError(problem: string, { host, pathname }: URL, reason: Error): Error {
  let { message } = reason instanceof AggregateError ? reason.errors[0] : reason; // IPv4 and IPv6
  if (message.includes('Expected ConnectionOpenOk; got <ConnectionClose')) {
    message = `virtual host "${decode(pathname.slice(1)) || '/'}" is missing, full, or forbidden`;
  }
  return new Error(`${problem} RabbitMQ at ${host}: ${message.trim()}`, { cause: reason });
}

/** @throws Error if the text is no broker's URL. It is not shown, since it may hold a password. */
export function parseUrl(text = process.env.AMQP_URL || 'amqp://localhost'): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const heartbeat = url?.searchParams.get('heartbeat') ?? '5'; // in s; at 60 a loss is noticed late
  if (!url?.hostname || !/^amqps?:$/.test(url.protocol) || !/^\d+$/.test(heartbeat)) {
    throw new Error('AMQP_URL or url should be amqp://user:pass@host:5672/vhost?heartbeat=5');
  }
  url.searchParams.set('heartbeat', heartbeat);
  return url;
}

/** Looks at rpc_queue (passive declare), if there is one. @throws Error if it is not permitted */
export async function inspectQueue(connection: ChannelModel) {
  const channel = await connection.createChannel(); // RabbitMQ closes it if there is no such queue
  channel.on('error', () => {}); // checkQueue rejects with it
  try {
    const queue = await channel.checkQueue(QUEUE);
    channel.close().catch(() => {}); // not awaited: it never settles if the connection is lost now
    return queue;
  } catch (error) {
    if ((error as { code?: number }).code === 404) return undefined;
    throw error;
  }
}

/** @throws RangeError if the text has more than 16 MiB, for which RabbitMQ 4 closes the channel */
export function toBody(text: string): Buffer {
  const body = Buffer.from(text);
  if (body.length <= 16 * 2 ** 20) return body;
  throw new RangeError(`a message may have 16777216 bytes at most; this one has ${body.length}`);
}

/** @throws RangeError unless it is digits, `min` to `max` (default: the longest timer, in ms) */
export function wholeNumber(name: string, text: string, min: number, max = 2_147_483_647): number {
  if (/^\d+$/.test(text) && Number(text) >= min && Number(text) <= max) return Number(text);
  throw new RangeError(`${name} must be a whole number from ${min} to ${max}; got "${text}"`);
}

// ---------------------------------------- The terminal ----------------------------------------
export const print = (line: string) => process.stdout.write(`${printable(line)}\n`);
export const warn = (line: string) => process.stderr.write(` [!] ${printable(line)}\n`);

// Escapes what could control the terminal: Unicode's category C, and its line separators.
const printable = (text: string) =>
  text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (char) => `\\u{${char.codePointAt(0)!.toString(16)}}`);
const BROKER = 'AMQP_URL names the broker (default amqp://guest:guest@localhost:5672).\n';

/** Runs a script. It ends with status 2 if it is used wrongly, and with 1 if it fails otherwise. */
export async function run<T>(usage: string, parse: () => T, main: (values: T) => Promise<void>) {
  process.stdout.on('error', () => process.exit(1)); // nobody reads it any more
  if (process.argv.includes('--help')) return void process.stdout.write(usage + BROKER);
  let values: T | undefined;
  try {
    values = parse();
    await main(values);
  } catch (error) {
    warn((error as Error).message.replaceAll('\n', ' '));
    if (!values) process.stderr.write(usage + BROKER);
    process.exitCode = values ? 1 : 2;
  }
}
