import { setTimeout as pause } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { until } from '../support/processes';
import type { Direction, Faults, Proxy } from '../support/proxy';
import { BACK, LOST, QUIET, expectOneLineEach, suite } from '../support/suite';

const it = suite();
const DIRECTIONS: Direction[] = ['up', 'down'];

/** Has eight lines bear a cut for every 25th of the bytes that `probe` has forwarded, in either direction. */
async function cutEverywhere(probe: Proxy, bear: (line: Proxy, cuts: Faults[]) => Promise<void>): Promise<void> {
  const cuts = DIRECTIONS.flatMap((direction) => {
    const count = Math.ceil(probe.forwarded[direction] / 25);
    return Array.from({ length: count }, (_, i): Faults => ({ cutAfter: { bytes: 25 * i, direction } }));
  });
  expect(cuts.length).toBeGreaterThan(40);
  const share = (line: number) => cuts.filter((_, i) => i % 8 === line);
  await Promise.all([0, 1, 2, 3, 4, 5, 6, 7].map(async (line) => bear(await it.proxy(), share(line))));
}

test('a client whose line is cut after every 25th byte of the set-up comes back, and is answered', async () => {
  await it.server();
  const probe = await it.proxy();
  await it.rpcClient(probe.url);
  await cutEverywhere(probe, async (line, cuts) => {
    const { call } = await it.rpcClient(line.url);
    line.next = cuts;
    line.cut();
    expect(await call(30)).toBe(832040n);
    await until('a line without cuts', () => line.next.length === 0);
    expect(await call(10)).toBe(55n);
  });
});

test('a server whose line is cut after every 25th byte of the set-up comes back, and consumes', async () => {
  const probe = await it.proxy();
  const server = await it.serverAt(probe.url);
  server.kill('SIGKILL');
  await it.queueHas({ consumerCount: 0 });
  await cutEverywhere(probe, async (line, cuts) => {
    line.next = cuts;
    it.run('rpc_server', [], line.url);
    await until('a line without cuts', () => line.next.length === 0);
  });
  await it.queueHas({ consumerCount: 8 });
});

test.each(DIRECTIONS)('a line that is half open (%s) is noticed by the heartbeat of the URL', async (direction) => {
  const [slow, fast] = [`${it.url}?heartbeat=3600`, `${it.url}?heartbeat=1`];
  const lines = [await it.proxy({}, slow), await it.proxy({}, fast), await it.proxy({}, fast)];
  const [deaf, server] = [await it.serverAt(lines[0]!.url), await it.serverAt(lines[1]!.url)];
  const { call, log, says } = await it.rpcClient(lines[2]!.url);
  for (const line of lines) line.hold(direction);
  const answered = call(30);
  await Promise.all([server.shows(LOST), says(LOST)]);
  await server.shows(/Awaiting/, { times: 2 });
  expect(deaf.stderr).toBe(''); // it was the heartbeat that told the others
  await lines[0]!.refuse(); // and so a request in its hands goes to the server
  expect(await answered).toBe(832040n);
  for (const output of [server.stderr, log.join('\n')]) expectOneLineEach(output);
});

test('a line cut after each set-up is tried once a second in the long run, and told of in two lines', async () => {
  const line = await it.proxy();
  const server = await it.serverAt(line.url);
  const setUps = () => server.count(/Awaiting/);
  for (let [end, seen] = [performance.now() + 25_000, 0]; performance.now() < end; await pause(20)) {
    const now = setUps();
    if (now > seen) line.cut();
    seen = now;
  }
  expect(line.accepted).toBeLessThanOrEqual(25);
  expectOneLineEach(server.stderr);
  for (const times of [2, 3]) { // after it has stood for five seconds, a loss is one of its own, and told at once
    const [before, cutAt] = [setUps(), performance.now()];
    line.cut();
    await server.shows(/Awaiting/, { times: before + 1 });
    expect(performance.now() - cutAt).toBeLessThan(7_000); // a pause of 2.5 s at most, and what a busy machine adds
    const stands = performance.now();
    await until('six seconds', () => performance.now() - stands >= 6_000);
    line.cut();
    await server.shows(LOST, { times });
  }
  expect(await it.client().exit()).toBe(0);
});

test('a handshake that is slow, never comes or is cut off is given up: a client ends, a server goes on', async () => {
  const late = { reason: 'connect ETIMEDOUT', atLeast: 9_000 }; // ms
  await Promise.all([
    { faults: { delay: 3_000 }, ...late }, { faults: { silent: true }, ...late },
    { faults: { closing: true }, reason: 'Socket closed abruptly during opening handshake', atLeast: 0 },
  ].map(async ({ faults, reason, atLeast }) => {
    const message = new RegExp(String.raw`^ \[!\] Cannot reach RabbitMQ at 127\.0\.0\.1:\d+: ${reason}`, 'm');
    const line = await it.proxy(faults);
    const sides = [it.run('rpc_client', [], line.url), it.run('rpc_server', [], line.url)] as const;
    await until('both', () => line.accepted >= 2);
    const acceptedAt = performance.now();
    for (const side of sides) await side.shows(message);
    expect(performance.now() - acceptedAt).toBeGreaterThanOrEqual(atLeast);
    expect(performance.now() - acceptedAt).toBeLessThan(60_000); // 10 s, and what a busy machine adds
    expect(await sides[0].exit()).toBe(1);
    line.faults = { delay: 50 }; // ms: slow, but there
    await sides[1].shows(/Awaiting/);
    expect(await it.run('rpc_client', [], line.url).end()).toMatchObject({ status: 0, stderr: QUIET });
  }));
});

test('a broker that is away keeps no server that is told to stop, and no call beyond its time', async () => {
  const [line, other] = [await it.proxy(), await it.proxy()];
  const server = await it.serverAt(line.url);
  const { call, says } = await it.rpcClient(line.url);
  await Promise.all([line.refuse(), other.refuse()]);
  await Promise.all([server.shows(LOST), says(LOST)]);
  await expect(call(30, 300)).rejects.toThrow('no reply within 300 ms; the connection to the broker is lost');
  const [stopped, early] = [it.run('rpc_server', [], line.url), it.run('rpc_server', [], other.url)];
  const refused = /^ \[!\] Cannot reach RabbitMQ at 127\.0\.0\.1:\d+: connect ECONNREFUSED .*npm run broker/m;
  for (const side of [stopped, early]) await side.shows(refused);
  const client = await it.run('rpc_client', [], line.url).end();
  expect(client).toEqual({ status: 1, stdout: '', stderr: expect.stringMatching(refused) });
  for (const side of [server, stopped]) {
    side.kill('SIGTERM');
    expect(await side.exit()).toBe(0);
  }
  const answered = call(30);
  await (await it.queue({ durable: true })).deleteQueue('rpc_queue');
  await line.listen();
  await says(BACK);
  const back = performance.now();
  await expect(call(20, 1_500)).rejects.toThrow('no reply within 1500 ms');
  await says(/No reply for a second: there is no rpc_queue/);
  await until('14 s', () => performance.now() - back >= 14_000);
  await other.listen();
  await early.shows(/Awaiting/);
  expect(await answered).toBe(832040n);
  expect(early.stdout).not.toContain('fib(20)');
});
