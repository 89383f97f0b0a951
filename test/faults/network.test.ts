import { setTimeout as pause } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { until } from '../support/processes';
import type { Direction, Faults, Proxy } from '../support/proxy';
import { LOST, QUIET, expectOneLineEach, suite } from '../support/suite';

const it = suite();
const DIRECTIONS: Direction[] = ['up', 'down'];

/** Has lines bear a cut for every 25th of the bytes that `probe` has forwarded, in either direction, one by one. */
async function cutEverywhere(probe: Proxy, lines: number, bear: (line: Proxy, cuts: Faults[]) => Promise<void>) {
  const cuts = DIRECTIONS.flatMap((direction) => {
    const count = Math.ceil(probe.forwarded[direction] / 25);
    return Array.from({ length: count }, (_, i): Faults => ({ cutAfter: { bytes: 25 * i, direction } }));
  });
  expect(cuts.length).toBeGreaterThan(40);
  await Promise.all(Array.from({ length: lines }, async (_, line) => {
    await bear(await it.proxy(), cuts.filter((__, i) => i % lines === line));
  }));
}

test('a client whose line is cut after every 25th byte of the set-up comes back, and is answered', async () => {
  await it.server();
  const probe = await it.proxy();
  await it.rpcClient(probe.url);
  await cutEverywhere(probe, 8, async (line, cuts) => {
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
  await cutEverywhere(probe, 4, async (line, cuts) => {
    line.next = cuts;
    it.run('rpc_server', [], line.url);
    await until('a line without cuts', () => line.next.length === 0);
  });
  await it.queueHas({ consumerCount: 4 });
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
  deaf.kill('SIGKILL');
  expect(await answered).toBe(832040n);
  for (const output of [server.stderr, log.join('\n')]) expectOneLineEach(output);
  expect(deaf.stderr).toBe(''); // it was the heartbeat that told the others
});

/** Cuts a line each time that its server has set up, for so many ms. */
async function cutEachSetUp(line: Proxy, setUps: () => number, ms: number): Promise<void> {
  for (let [end, seen] = [performance.now() + ms, 0]; performance.now() < end; await pause(20)) {
    const now = setUps();
    if (now > seen) line.cut();
    seen = now;
  }
}

test('a line cut after each set-up is tried once a second in the long run, and told of in two lines', async () => {
  const line = await it.proxy();
  const server = await it.serverAt(line.url);
  const setUps = () => server.count(/Awaiting/);
  await cutEachSetUp(line, setUps, 15_000);
  expect(line.accepted).toBeLessThanOrEqual(15);
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

test.each([
  ['drips a byte each 200 ms', { drip: 200 }], ['never comes', { silent: true }],
])('a handshake that %s is given up, by a server too', async (_, faults) => {
  const late = /^ \[!\] Cannot reach RabbitMQ at 127\.0\.0\.1:\d+: connect ETIMEDOUT/m;
  const line = await it.proxy(faults);
  const client = it.run('rpc_client', ['--timeout', '600000'], line.url);
  const server = it.run('rpc_server', [], line.url);
  await until('the client', () => line.accepted > 0);
  const connectedAt = performance.now();
  await client.shows(late);
  expect(await client.exit()).toBe(1);
  expect(performance.now() - connectedAt).toBeGreaterThan(9_000);
  expect(performance.now() - connectedAt).toBeLessThan(60_000); // 10 s, and what a busy machine adds
  await server.shows(late);
  line.faults = {};
  await server.shows(/Awaiting/);
});

test('a port that accepts and closes is an error for a client; a server waits for better, be it slow', async () => {
  const line = await it.proxy({ closing: true });
  const server = it.run('rpc_server', [], line.url);
  await server.shows(/Cannot reach RabbitMQ/);
  expect(await it.run('rpc_client', [], line.url).exit()).toBe(1);
  line.faults = { delay: 50 };
  await server.shows(/Awaiting/);
  expect(await it.run('rpc_client', [], line.url).end()).toMatchObject({ status: 0, stderr: QUIET });
});

test('a broker that is away keeps no server that is told to stop, and no call beyond its deadline', async () => {
  const line = await it.proxy();
  const server = await it.serverAt(line.url);
  const { call, says } = await it.rpcClient(line.url);
  await line.refuse();
  await Promise.all([server.shows(LOST), says(LOST)]);
  await expect(call(30, 300)).rejects.toThrow('no reply within 300 ms; the connection to the broker is lost');
  const [stopped, early] = [it.run('rpc_server', [], line.url), it.run('rpc_server', [], line.url)];
  const refused = /^ \[!\] Cannot reach RabbitMQ at 127\.0\.0\.1:\d+: connect ECONNREFUSED .*npm run broker/m;
  for (const side of [stopped, early]) await side.shows(refused);
  for (const side of [server, stopped]) {
    side.kill('SIGTERM');
    expect(await side.exit()).toBe(0);
  }
  const answered = call(30);
  await line.listen();
  await early.shows(/Awaiting/);
  expect(await answered).toBe(832040n);
});
