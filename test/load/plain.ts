// What this port is held against: plain amqplib, a server (this file, run with its options) and a client.
import { connect } from 'amqplib';
import { randomUUID } from 'node:crypto';
import { QUEUE } from '../../src/connection';
import { fib } from '../../src/fib';
import type { Call } from './shared';

/** Does the tutorial's work: reads n, prints it, computes. With `prefetch` 0 no work, no acknowledgements. */
async function serve(prefetch: number, noDelay: boolean): Promise<void> {
  const channel = await (await connect(process.env.AMQP_URL!, { noDelay })).createChannel();
  await channel.assertQueue(QUEUE);
  await channel.prefetch(prefetch);
  const noAck = prefetch === 0;
  const ready = Buffer.from('832040');
  const work = (n: number) => (console.log(` [.] fib(${n})`), Buffer.from(String(fib(n))));
  await channel.consume(QUEUE, (request) => {
    const body = noAck ? ready : work(Number(request!.content));
    const { replyTo, correlationId } = request!.properties;
    channel.sendToQueue(replyTo, body, { correlationId, type: 'result', contentType: 'text/plain' });
    if (!noAck) channel.ack(request!);
  }, { noAck });
}

/** `noDelay`: without Nagle's algorithm; amqplib's default is with it. */
export async function plainClient(url: string, noDelay: boolean): Promise<Call> {
  const connection = await connect(url, { noDelay });
  const channel = await connection.on('error', () => {}).createChannel(); // when the broker ends, at the end
  const { queue: replyTo } = await channel.assertQueue('', { exclusive: true, durable: false });
  const pending = new Map<string, () => void>();
  await channel.consume(replyTo, (reply) => pending.get(reply!.properties.correlationId)!(), { noAck: true });
  const body = Buffer.from('30');
  const properties = { contentType: 'text/plain', replyTo, mandatory: true, expiration: 30_000 };
  return () => new Promise((resolve) => {
    const correlationId = randomUUID();
    pending.set(correlationId, () => resolve(pending.delete(correlationId)));
    channel.sendToQueue(QUEUE, body, { ...properties, correlationId });
  });
}

if (require.main === module) void serve(Number(process.argv[2]), process.argv[3] === 'true');
