// The RPC server: takes requests from rpc_queue one at a time, replies to each and acknowledges it.
// Run it in as many terminals as you like: RabbitMQ gives each request to a server that is free.
import type { ConsumeMessage } from 'amqplib';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { QUEUE, inspectQueue, keepConnected, parseUrl, toBody } from './connection';
import { print, run, warn, wholeNumber, type Session } from './connection';
import { fib, parseN } from './fib';

/**
 * The work: your own function goes here. What it throws becomes an error reply. It must be
 * idempotent: a request can come twice, even while the first still runs. And it must not block the
 * event loop for two heartbeats (10 s): RabbitMQ would close the connection and ask another server.
 */
async function compute(request: string): Promise<string> {
  const n = parseN(request);
  print(` [.] fib(${n})`);
  return String(fib(n));
}

/** Consumes rpc_queue, on each new connection. */
async function serve(session: Session, delay: number, prefetch: number, stop: AbortSignal) {
  const { connection, channel } = session;
  // A queue that is there is used as it is: to declare it with other settings is an error (406).
  // A new one is durable: RabbitMQ 4.3 refuses queues that are neither durable nor exclusive.
  const queue = await inspectQueue(connection);
  if (!queue) await channel.assertQueue(QUEUE, { durable: true });
  await channel.prefetch(prefetch); // no more requests than that are unacknowledged
  const unanswered = new Set<Promise<void>>();
  const onRequest = (request: ConsumeMessage | null) => {
    if (!request) return; // the consumer is cancelled, and the session is lost
    if (stop.aborted) return channel.nack(request); // back into the queue, for another server
    const answered = answer(session, request, delay).finally(() => unanswered.delete(answered));
    unanswered.add(answered);
  };
  print(' [x] Awaiting RPC requests'); // before consume: a request may come at once
  const { consumerTag } = await channel.consume(QUEUE, onRequest, { noAck: false });
  session.finishWork = () => {
    channel.cancel(consumerTag).catch(() => {}); // fails if the session is lost now
    return Promise.all(unanswered);
  };
}

/** Replies to a request, and then acknowledges it: if this server dies before, another answers. */
async function answer({ channel, lost }: Session, request: ConsumeMessage, delay: number) {
  const { type, body } = await makeReply(request, delay);
  if (lost.aborted) return; // RabbitMQ delivers the request again
  const { replyTo, correlationId } = request.properties;
  // A redelivered request is acknowledged just before its reply: RabbitMQ may have closed the last
  // connection over that reply (3.10 does so for some reply queues), and would do it for ever.
  if (request.fields.redelivered) channel.ack(request);
  try {
    const properties = { correlationId, type, contentType: 'text/plain' };
    if (replyTo) channel.sendToQueue(replyTo, body, properties);
  } catch (error) {
    warn(`Cannot reply: ${messageOf(error)}`); // an id in invalid UTF-8 may exceed AMQP's 255 bytes
  }
  if (!request.fields.redelivered) channel.ack(request);
}

/** Computes the result, or says what went wrong; `type` tells the client which of the two it is. */
async function makeReply({ content, properties }: ConsumeMessage, delay: number) {
  try {
    if (!properties.replyTo) throw new Error('it came without reply_to: there is nobody to answer');
    const result = await compute(content.toString());
    if (delay > 0) await pause(delay, undefined, { ref: false }); // the socket keeps Node running
    return { type: 'result', body: toBody(result) };
  } catch (error) {
    const message = messageOf(error);
    warn(`Refused a request: ${message}`);
    return { type: 'error', body: Buffer.from(message) };
  }
}

/** The message of whatever was thrown, cut short, and never a stack trace. */
function messageOf(thrown: unknown): string {
  try {
    return String(thrown instanceof Error ? thrown.message : thrown).slice(0, 1_000);
  } catch {
    return 'unknown error'; // nothing that can be made a string
  }
}

// ----------------------------------------- The script -----------------------------------------
const USAGE = `Usage: npx ts-node src/rpc_server.ts [--delay MS] [--prefetch N]
Answers the requests in ${QUEUE} until Ctrl-C, and then those in hand; a second one ends it at once.
  --delay MS    hold each request for MS milliseconds (default 0): a stand-in for slow work
  --prefetch N  have N requests in hand at a time (default 1): for work that waits, or is quick
`;

function parseCommandLine() {
  const options = { delay: { type: 'string' }, prefetch: { type: 'string' } } as const;
  const { delay = '0', prefetch = '1' } = parseArgs({ options }).values;
  return {
    delay: wholeNumber('--delay', delay, 0),
    prefetch: wholeNumber('--prefetch', prefetch, 1, 65_535),
  };
}

async function main({ delay, prefetch }: ReturnType<typeof parseCommandLine>): Promise<void> {
  const stop = new AbortController();
  let firstSignalAt: number | undefined; // in ms, on the clock of performance.now()
  const onSignal = () => {
    firstSignalAt ??= performance.now();
    // A second signal ends it at once. One within 500 ms is the first again: npx passes it on, too.
    if (performance.now() - firstSignalAt > 500) process.exit(1);
    stop.abort();
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  const setUp = (session: Session) => serve(session, delay, prefetch, stop.signal);
  await keepConnected({ url: parseUrl(), name: 'rpc_server', setUp, log: warn, stop: stop.signal });
}

if (require.main === module) void run(USAGE, parseCommandLine, main);
