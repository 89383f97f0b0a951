import type { ConsumeMessage } from 'amqplib';
import { expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { until } from '../support/processes';
import { replying, suite, take } from '../support/suite';

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
  const connections = await it.broker.ctl('list_connections', 'vhost', 'client_properties');
  const ours = connections.split('\n').filter((line) => line.startsWith(it.vhost));
  const names = ours.map((line) => /"connection_name","([^"]*)"/.exec(line)?.[1]);
  expect(names.sort()).toEqual([undefined, 'rpc_client', 'rpc_server'].sort()); // and this test's own
  replying(['832040'])(channel, { properties } as ConsumeMessage);
  expect(await client.exit()).toBe(0);
});

test('says that there is no server, before the first and after the last, and is answered by the next', async () => {
  const client = it.client('--timeout', '600000', '1', '2', '3', '4');
  await client.shows(/^ \[!\] No reply for a second: there is no rpc_queue: start a .* src\/rpc_server\.ts$/m);
  const server = await it.server('--delay', '300');
  await client.shows(/^ \[\.\] fib/m);
  server.kill('SIGKILL');
  await client.shows(/No reply for a second: rpc_queue has 0 servers and \d waiting requests?: start a server/);
  await it.server();
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
