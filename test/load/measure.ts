// What the benchmark's parts measure with: calls kept in flight, servers, clients, and numbers as the tables say them.
import { connect } from 'amqplib';
import { QUEUE } from '../../src/connection';
import { RpcClient } from '../../src/rpc_client';
import { Command, until } from '../support/processes';
import { SERVER } from './shared';

/** Makes one call; `i` says which of those that are in flight at a time. */
export type Call = (i: number) => Promise<unknown>;

/** Keeps `inFlight` calls going, and first for a tenth of the time to warm up. Returns calls/s, and ms of each call. */
export async function measure(call: Call, inFlight: number, seconds = 0.5): Promise<{ rate: number; times: number[] }> {
  const times: number[] = [];
  const begin = performance.now() + seconds * 100;
  const keepCalling = async (_: unknown, i: number) => {
    for (let start = performance.now(); start < begin + seconds * 1_000; start = performance.now()) {
      await call(i);
      if (start >= begin) times.push(performance.now() - start);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, keepCalling));
  return { rate: times.length / seconds, times };
}

/** The value that `share` of the values are below. */
export const quantile = (values: number[], share: number) =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length * share)]!;
export const median = (values: number[]) => quantile(values, 0.5);
export const digits = (value: number) =>
  value.toLocaleString('en', { maximumSignificantDigits: Math.min(4, Math.max(2, Math.ceil(Math.log10(value)))) });
/** The median of the rounds, and their least and greatest. */
export const spread = (values: number[]) =>
  `${digits(median(values))} (${digits(Math.min(...values))} to ${digits(Math.max(...values))})`;
/** The median of the rounds' ratios. */
export const ratio = (values: number[], others: number[]) =>
  digits(median(values.map((value, round) => value / others[round]!)));

/** Starts servers, whose output nobody reads: the process that measures the client has enough to do. */
export async function startServers(
  url: string, count: number, command = SERVER, queueType = 'classic',
): Promise<Command[]> {
  const connection = await connect(url);
  const channel = await connection.createChannel();
  const options = { durable: true, arguments: { 'x-queue-type': queueType } };
  const { consumerCount } = await channel.assertQueue(QUEUE, options);
  const args = ['-c', 'exec "$@" > /dev/null', 'sh', 'node', ...command];
  const servers = Array.from({ length: count }, () => new Command('sh', args, { ...process.env, AMQP_URL: url }));
  const all = async () => (await channel.checkQueue(QUEUE)).consumerCount === consumerCount + count;
  await until('servers', all, 120_000);
  await connection.close();
  return servers;
}

export const stop = (servers: Command[]) =>
  Promise.all(servers.map((server) => (server.kill('SIGTERM'), server.exit())));

/** Connects so many clients, a few at a time. */
export async function connectClients(url: string, count: number): Promise<RpcClient[]> {
  const clients: RpcClient[] = [];
  while (clients.length < count) {
    const few = Array.from({ length: Math.min(20, count - clients.length) }, () => RpcClient.connect({ url }));
    clients.push(...(await Promise.all(few)));
  }
  return clients;
}
