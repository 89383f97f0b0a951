// The RPC server: takes requests from rpc_queue one at a time, replies to each where it asks for it, acknowledges.
// Run it in as many terminals as you like; the broker deals the requests out to whichever server is free.
import { IllegalOperationError, type Channel, type ConsumeMessage } from 'amqplib';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { QUEUE, closeConnection, inspectQueue, openConnection, parseMilliseconds, print, run, warn } from './connection';
import { fib, parseArgument } from './fib';

const USAGE = `Usage: npx ts-node src/rpc_server.ts [--delay MS]

Answers the requests in ${QUEUE}, one at a time, until Ctrl-C.

  --delay MS   hold each request for MS milliseconds, 0 to 2147483647 (default 0): a stand-in for slow work
  --help       print this

Environment:
  AMQP_URL     the broker (default amqp://guest:guest@localhost:5672)
`;

const CONSUMER_TAG = 'rpc_server';

function parseDelay(): number {
  const { values } = parseArgs({ options: { delay: { type: 'string', default: '0' } } });
  return parseMilliseconds('--delay', values.delay, 0);
}

/** Serves until a signal tells it to stop. Resolves to 0; rejects if the broker refuses it for good. */
async function serve(delay: number): Promise<number> {
  let channel: Channel | undefined;
  let inHand = Promise.resolve();

  const connection = await openConnection({
    name: 'rpc_server',
    waitForBroker: true,
    log: warn,
    setUp: async (newConnection, watch) => {
      const newChannel = watch(await newConnection.createChannel());
      const lost = new AbortController();
      newChannel.once('close', () => lost.abort());
      if (!(await inspectQueue(newConnection))) await newChannel.assertQueue(QUEUE, { durable: true });
      await newChannel.prefetch(1);
      const take = (request: ConsumeMessage | null) => {
        if (request) inHand = inHand.then(() => answer(newChannel, request, delay, lost.signal));
      };
      channel = newChannel;
      await newChannel.consume(QUEUE, take, { consumerTag: CONSUMER_TAG, noAck: false });
      print(' [x] Awaiting RPC requests');
    },
  });

  await new Promise<void>((resolve, reject) => {
    connection.on('reconnect-failed', reject);
    let first: number | undefined;
    const stop = () => {
      first ??= performance.now();
      if (performance.now() - first >= 500) process.exit(1); // the second; sooner, npx hands the same Ctrl-C on again
      resolve();
    };
    process.on('SIGINT', stop).on('SIGTERM', stop);
  });
  channel?.cancel(CONSUMER_TAG).catch(() => {}); // before the acknowledgement, which would bring the next request
  await inHand;
  await closeConnection(connection, channel);
  return 0;
}

/** Answers one request and acknowledges it. Never rejects; gives up when the channel is `lost`, and with it the request. */
async function answer(channel: Channel, request: ConsumeMessage, delay: number, lost: AbortSignal): Promise<void> {
  const { replyTo, correlationId } = request.properties;
  let type = 'result';
  let body: string;
  try {
    const n = parseArgument(request.content.subarray(0, 50).toString());
    if (!replyTo) throw new Error(`fib(${n}) came without reply_to: there is nobody to answer`);
    print(` [.] fib(${n})`);
    if (delay > 0) await pause(delay, undefined, { signal: lost });
    body = fib(n).toString();
  } catch (error) {
    if (lost.aborted) return; // another server has the request already
    type = 'error';
    body = (error as Error).message;
    warn(`Refused a request: ${body}`);
  }
  const reply = () => {
    const options = { correlationId, type, contentType: 'text/plain' };
    if (replyTo) channel.sendToQueue(replyTo, Buffer.from(body), options);
  };
  const acknowledge = () => channel.ack(request);
  // One that comes again is acknowledged first: perhaps the reply is what took the connection down the last time.
  for (const step of request.fields.redelivered ? [acknowledge, reply] : [reply, acknowledge]) {
    try {
      step();
    } catch (error) {
      if (error instanceof IllegalOperationError) return; // the channel is closed: the request will be delivered again
      warn(`Cannot reply: ${(error as Error).message}`); // and never could: an id that is no UTF-8 grows too long
    }
  }
}

if (require.main === module) void run(USAGE, parseDelay, serve);
