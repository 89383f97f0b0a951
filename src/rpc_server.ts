// The RPC server: takes requests from rpc_queue, one at a time by default, replies to each, and acknowledges it.
// Run it in as many terminals as you like; the broker deals the requests out to whichever server is free.
import type { Channel, ConsumeMessage } from 'amqplib';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { QUEUE, inspectQueue, keepConnected, print, run, warn, wholeNumber } from './connection';
import { CONTENT_TYPE, fib, readArgument, writeResult } from './fib';

/** Serves until `stop` is aborted, and answers what it has in hand then. Rejects if the broker refuses it for good. */
async function serve({ delay, prefetch }: ReturnType<typeof parseCommandLine>, stop: AbortSignal): Promise<void> {
  await keepConnected({
    name: 'rpc_server', waitForBroker: true, log: warn, stop,
    openChannel: (connection) => connection.createChannel(),
    setUp: async (channel, connection, lost) => {
      if (!(await inspectQueue(connection))) await channel.assertQueue(QUEUE, { durable: true }); // else used as it is
      await channel.prefetch(prefetch);
      const inHand = new Set<Promise<void>>();
      const consuming = channel.consume(QUEUE, (request) => {
        if (!request || stop.aborted) return;
        const answered = consuming.then(() => answer(channel, request, delay, lost)); // after "Awaiting" is said
        inHand.add(answered);
        void answered.then(() => inHand.delete(answered));
      }, { noAck: false });
      const { consumerTag } = await consuming;
      print(' [x] Awaiting RPC requests');
      // At once: the acknowledgement of a request in hand would bring another. It fails if the channel is lost then.
      stop.addEventListener('abort', () => channel.cancel(consumerTag).catch(() => {}), { signal: lost });
      return () => Promise.all(inHand);
    },
  });
}

/** Answers one request and acknowledges it. If the channel is lost before, another server does. Never rejects. */
async function answer(channel: Channel, request: ConsumeMessage, delay: number, lost: AbortSignal): Promise<void> {
  const { body, ...properties } = await compute(request, delay, lost);
  const { replyTo, correlationId } = request.properties;
  const reply = () => replyTo && channel.sendToQueue(replyTo, body, { correlationId, ...properties });
  const acknowledge = () => channel.ack(request);
  // Where it is redelivered, perhaps the reply is what took the connection down the last time.
  for (const step of request.fields.redelivered ? [acknowledge, reply] : [reply, acknowledge]) {
    try {
      step();
    } catch (error) {
      if (lost.aborted) return;
      warn(`Cannot reply: ${(error as Error).message}`); // and never could: an id that is no UTF-8 grows too long
    }
  }
}

/** Makes the reply to a request: the result, or the message of what went wrong with it. Never rejects. */
async function compute({ content, properties }: ConsumeMessage, delay: number, lost: AbortSignal) {
  try {
    const argument = readArgument(content);
    if (!properties.replyTo) throw new Error(`fib(${content}) came without reply_to: there is nobody to answer`);
    print(` [.] fib(${content})`);
    if (delay > 0) await pause(delay, undefined, { signal: lost });
    return { type: 'result', contentType: CONTENT_TYPE, body: writeResult(await fib(argument)) };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    if (!lost.aborted) warn(`Refused a request: ${message}`);
    return { type: 'error', contentType: 'text/plain', body: Buffer.from(message) };
  }
}

// ---------------------------------------- The script ----------------------------------------

const USAGE = `Usage: npx ts-node src/rpc_server.ts [--delay MS] [--prefetch N]
Answers the requests in ${QUEUE} until Ctrl-C.
  --delay MS    hold each request for MS milliseconds, 0 to 2147483647 (default 0): a stand-in for slow work
  --prefetch N  have N requests in hand at a time, 1 to 65535 (default 1): for work that waits, or is quick
`;

function parseCommandLine() {
  const options = { delay: { type: 'string', default: '0' }, prefetch: { type: 'string', default: '1' } } as const;
  const { delay, prefetch } = parseArgs({ options }).values;
  return { delay: wholeNumber('--delay', delay, 0), prefetch: wholeNumber('--prefetch', prefetch, 1, 65_535) };
}

async function main(commandLine: ReturnType<typeof parseCommandLine>): Promise<void> {
  const stop = new AbortController();
  let firstSignalAt: number | undefined; // in ms, on the clock of performance.now()
  const onSignal = () => {
    firstSignalAt ??= performance.now();
    if (performance.now() - firstSignalAt >= 500) process.exit(1); // sooner, it is the same Ctrl-C, which npx hands on
    stop.abort();
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  await serve(commandLine, stop.signal);
}

if (require.main === module) void run(USAGE, parseCommandLine, main);
