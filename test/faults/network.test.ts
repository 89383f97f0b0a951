import { setTimeout as pause } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { until } from '../support/processes';
import type { Direction, Faults, Proxy } from '../support/proxy';
import { LOST, expectOneLineEach, suite } from '../support/suite';

const it = suite();
const DIRECTIONS: Direction[] = ['up', 'down'];

/** A cut for every 25th of the bytes that went through this proxy, in either direction. */
function cuts({ forwarded }: Proxy): Faults[] {
  const all: Faults[] = [];
  for (const direction of DIRECTIONS) {
    for (let bytes = 0; bytes < forwarded[direction]; bytes += 25) all.push({ cutAfter: { bytes, direction } });
  }
  expect(all.length).toBeGreaterThan(40);
  return all;
}

/** Deals the cuts out to so many lines, that bear them one after another: the pauses between two attempts add up. */
async function share(all: Faults[], lines: number, bear: (line: Proxy, cuts: Faults[]) => Promise<void>) {
  await Promise.all(Array.from({ length: lines }, async (_, i) => {
    await bear(await it.proxy(), all.filter((__, j) => j % lines === i));
  }));
}

test('a client whose line is cut after every 25th byte of the set-up comes back, and is answered', async () => {
  await it.server();
  const probe = await it.proxy();
  await it.rpcClient(probe.url);
  await share(cuts(probe), 8, async (line, some) => {
    const { client } = await it.rpcClient(line.url);
    line.next = some;
    line.cut();
    expect(await client.call(30, { timeout: 600_000 })).toBe(832040n);
    await until('a line without cuts', () => line.next.length === 0);
    expect(await client.call(10, { timeout: 600_000 })).toBe(55n);
  });
});

test('a server whose line is cut after every 25th byte of the set-up comes back, and consumes', async () => {
  const probe = await it.proxy();
  const server = await it.serverAt(probe.url);
  server.kill('SIGKILL');
  await it.queueHas({ consumerCount: 0 });
  await share(cuts(probe), 4, async (line, some) => {
    line.next = some;
    it.run('rpc_server', [], line.url);
    await until('a line without cuts', () => line.next.length === 0);
  });
  await it.queueHas({ consumerCount: 4 });
});

test.each(DIRECTIONS)('a line that is half open (%s) is noticed by server and client', async (direction) => {
  const url = `${it.url}?heartbeat=1`;
  const [serverLine, clientLine] = [await it.proxy({}, url), await it.proxy({}, url)];
  const server = await it.serverAt(serverLine.url);
  const { client, log } = await it.rpcClient(clientLine.url);
  for (const line of [serverLine, clientLine]) line.hold(direction);
  const call = client.call(30, { timeout: 600_000 });
  await server.shows(LOST, { deadline: 7_000 }); // sooner than a heartbeat of 5 s could tell
  await server.shows(/Awaiting/, { times: 2 });
  expect(await call).toBe(832040n);
  for (const output of [server.stderr, log.join('\n')]) expectOneLineEach(output);
});

test('a line cut after each set-up is tried once a second in the long run, and told of in two lines', async () => {
  const line = await it.proxy();
  const server = await it.serverAt(line.url);
  const begin = performance.now();
  for (let setUps = 0; performance.now() - begin < 15_000;) {
    const now = server.count(/Awaiting/);
    if (now > setUps) line.cut();
    setUps = now;
    await pause(20);
  }
  expect(line.accepted).toBeLessThanOrEqual(15);
  expectOneLineEach(server.stderr);
  for (const times of [2, 3]) { // after it has stood for five seconds, a loss is one of its own, and told at once
    const setUps = server.count(/Awaiting/);
    line.cut();
    await server.shows(/Awaiting/, { times: setUps + 1 });
    const [stands, accepted] = [performance.now(), line.accepted];
    await until('six seconds', () => performance.now() - stands >= 6_000);
    line.cut();
    const cutAt = performance.now();
    await server.shows(LOST, { times });
    await until('the next attempt', () => line.accepted > accepted);
    expect(performance.now() - cutAt).toBeLessThan(10_000); // 0.1 s on an idle machine, not the 2 s of long outages
  }
  expect(await it.client().exit()).toBe(0);
});

test.each([
  ['drips a byte each 200 ms', { drip: 200 }], ['never comes', { silent: true }],
])('a handshake that %s is given up, by a server too', async (_, faults) => {
  const late = /^ \[!\] Cannot reach RabbitMQ at 127\.0\.0\.1:\d+: connect ETIMEDOUT/m;
  const line = await it.proxy(faults);
  const client = it.run('rpc_client', ['--timeout', '600000'], line.url);
  await until('the connection', () => line.accepted === 1);
  const connectedAt = performance.now();
  const server = it.run('rpc_server', [], line.url);
  const refused = (stderr: RegExp) => ({ status: 1, stderr: expect.stringMatching(stderr) });
  expect(await client.end()).toMatchObject(refused(late));
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
  expect(await it.run('rpc_client', [], line.url).end()).toMatchObject({ status: 0, stderr: '' });
});
