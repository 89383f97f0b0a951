import type { ChannelModel, ConsumeMessage } from 'amqplib';
import { expect, test, vi } from 'vitest';
import { fib } from '../../src/fib';
import { until } from '../support/processes';
import { errorOf, replying, suite, take } from '../support/suite';

const it = suite();

test('sends several requests at once over one reply queue, and prints each answer as it arrives', async () => {
  const held: ConsumeMessage[] = [];
  const channel = await it.peerServer((_, request) => held.push(request));
  const client = it.client('30', '0', '100');
  await until('three requests', () => held.length === 3);
  const different = (key: 'replyTo' | 'correlationId') => new Set(held.map(({ properties }) => properties[key])).size;
  expect([different('replyTo'), different('correlationId')]).toEqual([1, 3]);
  expect(client.stdout).toBe(' [x] Requesting fib(30)\n [x] Requesting fib(0)\n [x] Requesting fib(100)\n');
  for (const n of [100, 0, 30]) {
    const request = held.find(({ content }) => content.toString() === String(n))!;
    replying([String(fib(n))])(channel, request);
    await client.shows(new RegExp(String.raw`^ \[\.\] fib\(${n}\) = ${fib(n)}\n$`, 'm'));
  }
  expect(await client.exit()).toBe(0);
});

test('sends what the tutorial says, and an expiration, as a mandatory message; both sides have names', async () => {
  const channel = await it.queue();
  const client = it.client('--timeout', '600000', '30');
  const { content, properties, fields } = await take(channel, 'rpc_queue');
  expect(content.toString()).toBe('30');
  expect(fields).toMatchObject({ exchange: '', routingKey: 'rpc_queue' });
  const { expiration, correlationId, replyTo, ...others } = properties;
  expect(Number(expiration)).toBeLessThanOrEqual(600_000);
  expect(correlationId).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(others).toMatchObject({ contentType: 'text/plain', headers: {}, deliveryMode: undefined, type: undefined });
  expect(replyTo).toMatch(/^amq\.gen-/);
  expect(await it.queueDetails(replyTo)).toMatchObject({ exclusive: true, durable: false });
  await it.server();
  const consumers = await it.broker.ctl('list_consumers', '-p', it.vhost, 'queue_name', 'ack_required');
  expect(consumers).toContain(`${replyTo}\tfalse`);
  const accepted = new RegExp(`-> [\\d.:]+(?: - (.*?))?\\)?: user .* access to vhost '${it.vhost}'`, 'g');
  const names = () => [...it.broker.log.matchAll(accepted)].map(([, name]) => name);
  await until('three connections', () => names().length >= 3);
  expect(names().sort()).toEqual(['rpc_client', 'rpc_server', undefined]); // and this test's own
  replying(['832040'])(channel, { properties } as ConsumeMessage);
  expect(await client.exit()).toBe(0);
});

test('reports the error of a server, cut and escaped, and goes on with the other calls', async () => {
  const failing = replying([`no \u001b[31mone\u009b\u202e ${'x'.repeat(1_000)}`, { type: 'error' }]);
  await it.peerServer((...all) => (String(all[1].content) === '1' ? failing : replying(['1']))(...all));
  const { status, stdout, stderr } = await it.client('1', '2').end();
  expect(status).toBe(1);
  expect(stderr).toMatch(/^ \[!\] fib\(1\): no \\u\{1b\}\[31mone\\u\{9b\}\\u\{202e\} x{480,490}$/m);
  expect(stdout).toContain(' [.] fib(2) = 1\n');
});

const NOBODY = () => {}; // the answer of a server that keeps the requests

/** Counts the channels that are opened in this process from now on: each look takes one. */
const countLooks = async () => {
  const { connection } = await it.peer();
  return vi.spyOn(Object.getPrototypeOf(connection) as ChannelModel, 'createChannel');
};

/** How many servers the lines name. */
const serversIn = (log: string[]) =>
  log.map((line) => /^No reply for a second: rpc_queue has (\d+) servers?\b/.exec(line)?.[1]).join(' ');

test('a client that has answers, though not to each call, never looks at rpc_queue', async () => {
  await it.peerServer((...all) => String(all[1].content) === '30' && setTimeout(replying(['832040']), 20, ...all));
  const { call } = await it.rpcClient();
  const looks = await countLooks();
  void errorOf(call(1));
  let slow = 0; // calls for which a machine takes a second
  for (const begin = performance.now(); performance.now() - begin < 1_500;) {
    const calledAt = performance.now();
    await call(30);
    if (performance.now() - calledAt > 900) slow++;
  }
  expect(looks.mock.calls.length).toBeLessThanOrEqual(slow);
});

test('calls that end together share looks, and an idle client none, though its servers are gone', async () => {
  const channel = await it.peerServer(NOBODY);
  const { call, log } = await it.rpcClient();
  const looks = await countLooks();
  const calls = Array.from({ length: 50 }, () => errorOf(call(30, 300)));
  for (const error of await Promise.all(calls)) expect(error!.code).toBe('TIMEOUT');
  expect(looks.mock.calls.length).toBeLessThan(25); // one, if all their timers fire at once
  await channel.deleteQueue('rpc_queue');
  await errorOf(call(30, 300));
  looks.mockClear();
  await errorOf(call(30, 3_000)); // whose looks come at pauses that grow
  expect(looks.mock.calls.length).toBeLessThan(20);
  looks.mockClear();
  const idleSince = performance.now();
  await until('three seconds', () => performance.now() - idleSince > 3_000);
  expect(looks).not.toHaveBeenCalled();
  expect(log.filter((line) => /No reply for a second: there is no rpc_queue/.test(line))).toHaveLength(1);
});

test('a request that comes back is sent again when there is a server, once, and so are the later ones', async () => {
  await it.peerServer(replying(['1']));
  const { call } = await it.rpcClient();
  expect(await call(1)).toBe(1n);
  await (await it.peer()).channel.deleteQueue('rpc_queue');
  const calls = [call(2), call(3), call(4)];
  await until('the look of one', async () => /there is no/.test((await errorOf(call(5, 100)))!.message));
  const channel = await it.queue();
  const asked: string[] = [];
  await channel.consume('rpc_queue', (request) => {
    asked.push(String(request!.content));
    replying(['7'])(channel, request!);
  }, { noAck: true });
  expect(await Promise.all(calls)).toEqual([7n, 7n, 7n]);
  expect(asked.sort()).toEqual(['2', '3', '4']);
});

test('says that there is no reply a second after the call, and not before, however busy the program was', async () => {
  await it.queue();
  const { call, log } = await it.rpcClient();
  for (const end = performance.now() + 500; performance.now() < end;); // a timer that is started now counts from before
  const calledAt = performance.now();
  void errorOf(call(30));
  await until('the line', () => log.length > 0);
  expect(performance.now() - calledAt).toBeGreaterThanOrEqual(1_000);
});

test('says it once for as many servers, and again when there are more, or fewer, or after a reply', async () => {
  const servers = [await it.peerServer(NOBODY), await it.peerServer(NOBODY)];
  const { call, log } = await it.rpcClient();
  for (const n of [1, 2, 3]) void errorOf(call(n));
  await until('two servers', () => serversIn(log) === '2');
  await servers[0]!.close();
  await until('one server', () => serversIn(log) === '2 1');
  await servers[1]!.close();
  await until('no server', () => serversIn(log) === '2 1 0');
  await it.peerServer((...all) => String(all[1].content) === '4' && replying(['3'])(...all));
  await until('one server', () => serversIn(log) === '2 1 0 1');
  expect(await call(4)).toBe(3n);
  await until('another silence', () => serversIn(log) === '2 1 0 1 1');
});
