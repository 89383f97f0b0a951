// What the bench holds the port against: amqplib alone, without any care for what may fail. The
// server (this script) and the client do the same work, and send the same messages.
import { connect, type Channel, type ConsumeMessage, type Message } from 'amqplib';
import { randomUUID } from 'node:crypto';
import { QUEUE } from '../../src/connection';
import { fib } from '../../src/fib';

export async function openChannel(url: string): Promise<Channel> {
  const connection = await connect(url, { noDelay: true });
  connection.on('error', () => {}); // at the end the broker is killed
  return connection.createChannel();
}

/** Computes, replies and acknowledges. */
export function answer(channel: Channel, request: Message): void {
  const { replyTo, correlationId } = request.properties;
  const result = Buffer.from(String(fib(Number(request.content))));
  const properties = { correlationId, type: 'result', contentType: 'text/plain' };
  channel.sendToQueue(replyTo, result, properties);
  channel.ack(request);
}

async function serve(prefetch: number): Promise<void> {
  const channel = await openChannel(process.env.AMQP_URL!);
  await channel.assertQueue(QUEUE);
  await channel.prefetch(prefetch);
  await channel.consume(QUEUE, (request) => {
    console.log(` [.] fib(${request!.content})`);
    answer(channel, request!);
  });
}

export async function connectPlain(url: string) {
  const channel = await openChannel(url);
  const { queue: replyTo } = await channel.assertQueue('', { exclusive: true, durable: false });
  const calls = new Map<string, (reply: string) => void>();
  const onReply = (reply: ConsumeMessage | null) => {
    const { correlationId } = reply!.properties;
    calls.get(correlationId)!(reply!.content.toString());
    calls.delete(correlationId);
  };
  await channel.consume(replyTo, onReply, { noAck: true });
  const call = (request: string): Promise<string> => {
    const ids = { correlationId: randomUUID(), replyTo };
    const properties = { ...ids, contentType: 'text/plain', expiration: 30_000, mandatory: true };
    channel.sendToQueue(QUEUE, Buffer.from(request), properties);
    return new Promise((resolve) => calls.set(ids.correlationId, resolve));
  };
  return { call };
}

if (require.main === module) void serve(Number(process.argv[2]));
