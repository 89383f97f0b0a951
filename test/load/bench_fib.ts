// The benchmark's part `fib`: how a call grows with n, and what of it is the function and what the two conversions.
import { RpcClient } from '../../src/rpc_client';
import { fib, readResult, writeResult } from '../../src/fib';
import type { Broker } from '../support/broker';
import { digits, measure, median, startServers, stop } from './measure';
import { table } from './shared';

const ROUNDS = 5;
const SIZES = [1, 30, 1_000, 10_000, 100_000, 1_000_000]; // n

/** The ms that `work` takes, as the mean of all that fit into 20 ms. */
function timeOf(work: () => unknown): number {
  const start = performance.now();
  for (let times = 1; ; times++) {
    work();
    const time = performance.now() - start;
    if (time >= 20) return time / times;
  }
}

export async function benchFib(broker: Broker): Promise<string> {
  const servers = await startServers(broker.url(), 1);
  const client = await RpcClient.connect({ url: broker.url() });
  const rows = SIZES.map((n) => ({ n, value: fib(n), body: writeResult(fib(n)), times: [] as number[][] }));
  for (let round = 1; round <= ROUNDS; round++) {
    console.error(`fib: round ${round} of ${ROUNDS}`);
    for (const { n, value, body, times } of rows) {
      const call = median((await measure(() => client.call(n), 1)).times);
      times.push([call, timeOf(() => fib(n)), timeOf(() => writeResult(value)), timeOf(() => readResult(body))]);
    }
  }
  await client.close();
  await stop(servers);
  const results = rows.map(({ n, times }) => [n, ...[0, 1, 2, 3].map((i) => median(times.map((each) => each[i]!)))]);
  const head = ['n', 'ms for a call', 'the function', 'digits from the number', 'the number from digits'];
  const cells = results.map(([n, ...times]) => [n!.toLocaleString('en'), ...times.map(digits)]);
  const costly = results.flatMap(([n, , own, write, read]) =>
    (write! + read! > own! ? [`${n!.toLocaleString('en')} (${digits((write! + read!) / own!)} times as much)`] : []));
  const line = `The two conversions cost more than the function for n = ${costly.join(', ') || 'none of these'}.`;
  return `${table(head, cells)}\n\n${line}`;
}
