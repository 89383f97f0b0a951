// What this port is held against: plain amqplib, a server (this file, run with its options as JSON) and a client.
import { connect } from 'amqplib';
import { randomUUID } from 'node:crypto';
import { QUEUE } from '../../src/connection';
import { fib } from '../../src/fib';
import type { Call } from './measure';

export interface Plain {
  prefetch: number; // 0: no limit, and no acknowledgements
  works?: boolean; // the server does the tutorial's work: reads n, prints it, computes
  noDelay: boolean; // without Nagle's algorithm; amqplib's default is with it
}

export const plainServer = (plain: Plain) => ['-r', 'ts-node/register', __filename, JSON.stringify(plain)];

async function serve({ prefetch, works, noDelay }: Plain): Promise<void> {
  const channel = await (await connect(process.env.AMQP_URL!, { noDelay })).createChannel();
  const noAck = prefetch === 0;
  await channel.prefetch(prefetch);
  const ready = Buffer.from('832040');
  const work = (n: number) => (console.log(` [.] fib(${n})`), Buffer.from(String(fib(n))));
  await channel.consume(QUEUE, (request) => {
    const body = works ? work(Number(request!.content)) : ready;
    const { replyTo, correlationId } = request!.properties;
    channel.sendToQueue(replyTo, body, { correlationId, type: 'result', contentType: 'text/plain' });
    if (!noAck) channel.ack(request!);
  }, { noAck });
}

export async function plainClient(url: string, { noDelay }: Plain): Promise<Call> {
  const connection = await connect(url, { noDelay });
  const channel = await connection.on('error', () => {}).createChannel(); // when the broker ends, at the end
  const { queue: replyTo } = await channel.assertQueue('', { exclusive: true, durable: false });
  const pending = new Map<string, (value: unknown) => void>();
  await channel.consume(replyTo, (reply) => pending.get(reply!.properties.correlationId)!(reply), { noAck: true });
  const body = Buffer.from('30');
  const properties = { contentType: 'text/plain', replyTo, mandatory: true, expiration: 30_000 };
  return async () => {
    const correlationId = randomUUID();
    const answer = new Promise((resolve) => pending.set(correlationId, resolve));
    channel.sendToQueue(QUEUE, body, { ...properties, correlationId });
    await answer;
    pending.delete(correlationId);
  };
}

if (require.main === module) void serve(JSON.parse(process.argv[2]!));
