// The RPC server: takes requests from rpc_queue one at a time, replies to each where it asks for it, acknowledges.
// Run it in as many terminals as you like; the broker deals the requests out to whichever server is free.
import type { Channel, ConsumeMessage } from 'amqplib';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { QUEUE, inspectQueue, keepConnected, parseMilliseconds, print, run, warn } from './connection';
import { CONTENT_TYPE, fib, readArgument, writeResult } from './fib';

/** Serves until `stop` is aborted, and finishes the request in hand. Rejects if the broker refuses it for good. */
async function serve(delay: number, stop: AbortSignal): Promise<void> {
  let inHand = Promise.resolve();
  await keepConnected({
    name: 'rpc_server',
    waitForBroker: true,
    openChannel: (connection) => connection.createChannel(),
    setUp: async (channel, connection, lost) => {
      if (!(await inspectQueue(connection))) await channel.assertQueue(QUEUE, { durable: true }); // else used as it is
      await channel.prefetch(1);
      const take = (request: ConsumeMessage | null) => {
        if (request && !stop.aborted) inHand = inHand.then(() => answer(channel, request, delay, lost));
      };
      const { consumerTag } = await channel.consume(QUEUE, take, { noAck: false });
      print(' [x] Awaiting RPC requests');
      // At once: the acknowledgement of the request in hand would bring another. It fails if the channel is lost then.
      stop.addEventListener('abort', () => channel.cancel(consumerTag).catch(() => {}), { signal: lost });
    },
    finish: () => inHand,
    log: warn, stop,
  });
}

/** Answers one request and acknowledges it. If the channel is lost before, another server does. Never rejects. */
async function answer(channel: Channel, request: ConsumeMessage, delay: number, lost: AbortSignal): Promise<void> {
  const { replyTo, correlationId } = request.properties;
  const reply = { correlationId, type: 'result', contentType: CONTENT_TYPE };
  let body: Buffer;
  try {
    const argument = readArgument(request.content);
    const call = `fib(${request.content})`;
    if (!replyTo) throw new Error(`${call} came without reply_to: there is nobody to answer`);
    print(` [.] ${call}`);
    if (delay > 0) await pause(delay, undefined, { signal: lost });
    body = writeResult(await fib(argument));
  } catch (error) {
    if (lost.aborted) return;
    Object.assign(reply, { type: 'error', contentType: 'text/plain' });
    body = Buffer.from(error instanceof Error ? error.message : String(error));
    warn(`Refused a request: ${body}`);
  }
  const { redelivered } = request.fields; // if so, perhaps the reply is what took the connection down the last time
  try {
    if (redelivered) channel.ack(request);
    if (replyTo) channel.sendToQueue(replyTo, body, reply);
  } catch (error) {
    if (lost.aborted) return;
    warn(`Cannot reply: ${(error as Error).message}`); // and never could: an id that is no UTF-8 grows too long
  }
  if (!redelivered) channel.ack(request);
}

// ---------------------------------------- The script ----------------------------------------

const USAGE = `Usage: npx ts-node src/rpc_server.ts [--delay MS]

Answers the requests in ${QUEUE}, one at a time, until Ctrl-C.
  --delay MS   hold each request for MS milliseconds, 0 to 2147483647 (default 0): a stand-in for slow work
  --help       print this
The environment's AMQP_URL names the broker (default amqp://guest:guest@localhost:5672).
`;

function parseCommandLine(): number {
  const { values } = parseArgs({ options: { delay: { type: 'string', default: '0' } } });
  return parseMilliseconds('--delay', values.delay, 0);
}

async function main(delay: number, stop: AbortController): Promise<void> {
  let firstSignalAt = Infinity; // in milliseconds, on the clock of performance.now()
  const onSignal = () => {
    if (performance.now() - firstSignalAt >= 500) process.exit(1); // sooner, it is the same Ctrl-C, which npx hands on
    firstSignalAt = Math.min(firstSignalAt, performance.now());
    stop.abort();
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  await serve(delay, stop.signal);
}

if (require.main === module) void run(USAGE, parseCommandLine, main);
