// What users and readers have reported, each as one test. What was seen is in its title.
import type { ChannelModel } from 'amqplib';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { ROOT } from './support/machine';
import { LOST, built, errorOf, replying, take, useVhost } from './support/vhost';

const vhost = useVhost();

test('a server that polls was never asked again after a reconnection', async () => {
  const channel = await vhost.declareQueue();
  const line = await vhost.startProxy();
  const { call } = await vhost.connectClient(line.url);
  const answered = call(30, 600_000);
  const first = await take(channel, 'rpc_queue'); // basic.get
  line.cut();
  const { properties } = await take(channel, 'rpc_queue');
  expect(Number(properties.expiration)).toBeGreaterThan(300_000);
  expect(Number(properties.expiration)).toBeLessThan(Number(first.properties.expiration));
  channel.sendToQueue(properties.replyTo, Buffer.from('832040'), properties);
  expect(await answered).toBe('832040');
});

test('permissions that were away for a while ended client and server for good', async () => {
  const resource = `permissions/${encodeURIComponent(vhost.name)}/away`;
  const permit = (all: string) =>
    vhost.broker.api('PUT', resource, { configure: all, write: all, read: all });
  await vhost.broker.api('PUT', 'users/away', { password: 'away', tags: '' });
  await permit('.*');
  const line = await vhost.startProxy({}, vhost.broker.url(vhost.name, 'away:away'));
  const server = await vhost.startServer([], line.url);
  const { call, logs } = await vhost.connectClient(line.url);
  await permit('');
  line.cut();
  await server.shows(/Cannot connect .* 403 .*ACCESS_REFUSED.*'rpc_queue' in .*; trying again/);
  await logs(/Cannot connect to .* 403 .*ACCESS_REFUSED.*; trying again/);
  await permit('.*');
  expect(await call(30)).toBe('832040');
});

test('a client with slow calls opened a channel a second, though nobody asked it to look', async () => {
  await vhost.answerWith(() => {});
  const { call } = await vhost.connectClient();
  const { connection } = await vhost.openChannel();
  const model: ChannelModel = Object.getPrototypeOf(connection);
  const createChannel = vi.spyOn(model, 'createChannel');
  expect(await errorOf(call(30, 2_500))).toMatchObject({ code: 'TIMEOUT' });
  expect(createChannel).not.toHaveBeenCalled();
});

test('a timeout was up to 200 ms late where the broker is frozen', async () => {
  const line = await vhost.startProxy();
  const { call } = await vhost.connectClient(line.url);
  line.hold('down');
  const first = await Promise.race([errorOf(call(30, 500)), pause(600)]); // in this order on any machine
  expect(first).toMatchObject({ code: 'TIMEOUT', message: 'no reply within 500 ms' });
});

/** AMQP's methods as bytes, on the wire that amqplib reads. */
function frames(...methods: [name: string, channel: number, fields: object][]): Buffer {
  const defs = require(path.join(ROOT, 'node_modules/amqplib/lib/defs.js'));
  return Buffer.concat(methods.map(([name, ...rest]) => defs.encodeMethod(defs[name], ...rest)));
}

test('a client wrote its requests to a connection that the broker had blocked, and kept them', async () => {
  await vhost.answerWith(replying(['1']));
  const line = await vhost.startProxy({}, `${vhost.url}?heartbeat=0`);
  const { call, logs } = await vhost.connectClient(line.url);
  line.inject(frames(['ConnectionBlocked', 0, { reason: 'low on memory' }]));
  await logs(/RabbitMQ is blocking publishers: low on memory/);
  const before = line.forwarded.up;
  const errors = await Promise.all(Array.from({ length: 100 }, () => errorOf(call(30, 300))));
  expect(new Set(errors.map((error) => error?.code))).toEqual(new Set(['TIMEOUT']));
  const answered = call(30);
  expect(line.forwarded.up).toBe(before);
  line.inject(frames(['ConnectionUnblocked', 0, {}]));
  expect(await answered).toBe('1');
});

test('"unblocked" together with the loss of the channel was an unhandled rejection', async () => {
  await vhost.answerWith(replying(['1']));
  const line = await vhost.startProxy();
  const { call, logs } = await vhost.connectClient(line.url);
  line.inject(frames(['ConnectionBlocked', 0, { reason: 'low on disk' }]));
  await logs(/RabbitMQ is blocking publishers: low on disk/);
  const answered = call(30);
  const close = { replyCode: 406, replyText: 'gone', classId: 0, methodId: 0 };
  line.inject(frames(['ChannelClose', 1, close], ['ConnectionUnblocked', 0, {}]));
  await logs(LOST);
  expect(await answered).toBe('1');
});

/** Puts a server with another function beside the real one. @returns the path of its script */
function serverWith(name: string, compute: string): string {
  const source = readFileSync(built('src/rpc_server'), 'utf8');
  const changed = source.replace(/async function compute\([^]*?\n}\n/, compute);
  if (changed === source) throw new Error('there is no function compute in src/rpc_server.ts');
  const script = built(`src/${name}`);
  writeFileSync(script, changed);
  return script;
}

const THROWING = `async function compute(request) {
  const thrown = [
    undefined, Object.create(null), Object.assign(new Error(), { message: { a: 1 } }),
    { toString() { throw this; } }, { [Symbol.toPrimitive]: 1 }, Symbol('it'), 'no luck',
    Object.defineProperty(new Error(), 'message', { get() { throw this; } }), new Error('no luck'),
  ];
  if (request in thrown) throw thrown[request];
  return 'x'.repeat(Number(request));
}
`;

test('a server died of what a function throws, and so did the next', async () => {
  const server = vhost.runCommand('node', [serverWith('throwing', THROWING)]);
  await server.shows(/Awaiting/);
  const { call } = await vhost.connectClient();
  for (let n = 0; n < 9; n++) {
    expect(await errorOf(call(n))).toMatchObject({ code: 'SERVER', message: expect.any(String) });
  }
  expect(await errorOf(call(6))).toMatchObject({ message: 'no luck' });
  expect(await call(9)).toBe('xxxxxxxxx');
});

test('a body over 16 MiB took the connection down, again and again, with all other calls', async () => {
  const server = vhost.runCommand('node', [serverWith('large', THROWING)]);
  await server.shows(/Awaiting/);
  const { client, call, log } = await vhost.connectClient();
  const tooLarge = /16777216 bytes at most; this one has 16777217/;
  const error = { name: 'RangeError', message: expect.stringMatching(tooLarge) };
  expect(await errorOf(client.call('x'.repeat(2 ** 24 + 1)))).toMatchObject(error);
  await expect(call(2 ** 24 + 1)).rejects.toThrow(tooLarge); // the result
  expect(await call(2 ** 24)).toHaveLength(2 ** 24);
  expect([log.join(), server.count(/Lost/)]).toEqual(['', 0]);
});

test('a stopping server sat on requests that came after the signal', async () => {
  const line = await vhost.startProxy();
  const stopping = await vhost.startServer(['--prefetch', '64', '--delay', '1000000'], line.url);
  const { call } = await vhost.connectClient();
  void errorOf(call(1));
  await stopping.shows(/fib\(1\)/);
  line.faults.delay = 2_000; // ms that it takes to cancel the consumer
  stopping.kill('SIGTERM');
  const answered = call(2);
  await vhost.queueHas({ messageCount: 0 });
  await vhost.startServer();
  expect(await answered).toBe('1');
  expect([stopping.running, stopping.count(/fib\(2\)/)]).toEqual([true, 0]);
});

test('a server with 30 requests in hand printed a MaxListenersExceededWarning', async () => {
  const server = await vhost.startServer(['--prefetch', '64', '--delay', '1000']);
  expect(await vhost.runClient(...Array(30).fill('30')).exit()).toBe(0);
  expect([server.count(/fib\(30\)/), server.stderr]).toEqual([30, '']);
});

test.each(['5000', 0, -1, 0.5, 1.5, NaN, Infinity, 2 ** 31])(
  'a timeout of %j passed the check, and the request was never sent',
  async (timeout) => {
    const { client } = await vhost.connectClient();
    await expect(client.call('30', { timeout: timeout as number })).rejects.toThrow(RangeError);
  },
);

test('an @ in the name of a virtual host was refused, with advice about the password', async () => {
  await vhost.broker.api('PUT', 'vhosts/a%40b');
  const url = vhost.broker.url('').replace(/\/$/, '/a@b');
  await vhost.startServer([], url);
  expect(await vhost.runScript('rpc_client', [], url).exit()).toBe(0);
});

test('a client hung where Node has no Symbol.asyncDispose', async () => {
  await vhost.startServer();
  const without = `const real = Symbol;
    const get = (_, key) => (key === 'asyncDispose' ? undefined : real[key]);
    globalThis.Symbol = new Proxy((text) => real(text), { get });`;
  const env = { NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(without)}` };
  expect(await vhost.runScript('rpc_client', [], vhost.url, env).exit()).toBe(0);
});
