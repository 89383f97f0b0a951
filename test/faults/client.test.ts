import { describe, expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { until } from '../support/processes';
import { BACK, suite } from '../support/suite';

const it = suite();

/** The names of the reply queues in this test's virtual host. */
async function replyQueues(): Promise<string[]> {
  const queues = (await it.broker.api('GET', `queues/${encodeURIComponent(it.vhost)}`)) as { name: string }[];
  return queues.map(({ name }) => name).filter((name) => name.startsWith('amq.gen-'));
}

/** Deletes a queue that is another connection's own, which only the broker itself can. */
async function deleteQueue(name: string): Promise<void> {
  await it.broker.ctl('eval', `{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"${it.vhost}">>, queue, <<"${name}">>)),
    rabbit_amqqueue:delete(Q, false, false, <<"test">>).`);
}

test('a flood of calls, the reply queue deleted under it: all are answered', async () => {
  await it.server();
  const client = await it.rpcClient();
  const calls: Promise<bigint>[] = [];
  const flood = setInterval(() => calls.push(client.call(30)), 1);
  const [queue] = await replyQueues();
  await deleteQueue(queue!);
  await until('another reply queue', async () => (await replyQueues()).some((name) => name !== queue));
  const before = calls.length;
  await until('calls on it', () => calls.length > before + 100);
  clearInterval(flood);
  expect(new Set(await Promise.all(calls))).toEqual(new Set([832040n]));
});

describe('after a reconnection', () => {
  test('a call that was pending and one made meanwhile wait for a server that comes 14 s later', async () => {
    await it.queue();
    const log: string[] = [];
    const client = await it.rpcClient({ log: (line) => log.push(` [!] ${line}`) });
    const pending = client.call(30);
    await it.queueHas({ messageCount: 1 });
    const [queue] = await replyQueues();
    await deleteQueue(queue!);
    await until('the way back', () => BACK.test(log.join('\n')));
    const channel = await it.queue();
    await channel.deleteQueue('rpc_queue'); // with the first copy of the request in it
    const late = client.call(31);
    const back = performance.now();
    await until('14 s', () => performance.now() - back >= 14_000);
    expect(log.join('\n')).toMatch(/No reply for a second: (there is no rpc_queue|rpc_queue has 0 servers)/);
    await it.server();
    expect(await Promise.all([pending, late])).toEqual([fib(30), fib(31)]);
  });
});
