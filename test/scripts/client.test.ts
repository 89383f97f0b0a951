import type { ConsumeMessage } from 'amqplib';
import { expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { until } from '../support/processes';
import { replying, suite, take } from '../support/suite';

const it = suite();

test.each([
  ['npx ts-node src/rpc_client.ts 30', () => it.npx('rpc_client', '30')],
  ['no argument', () => it.client()],
  ['an empty argument', () => it.client('')],
])('%s asks for fib(30)', async (_, start) => {
  await it.server();
  const stdout = ' [x] Requesting fib(30)\n [.] Got 832040\n';
  expect(await start().end()).toEqual({ status: 0, stdout, stderr: expect.not.stringContaining('[!]') });
});

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

test('sends what the tutorial says, and an expiration, as a mandatory message', async () => {
  const channel = await it.queue();
  const client = it.client('--timeout', '60000', '30');
  const { content, properties, fields } = await take(channel, 'rpc_queue');
  expect(content.toString()).toBe('30');
  expect(fields).toMatchObject({ exchange: '', routingKey: 'rpc_queue' });
  const { expiration, correlationId, replyTo, ...others } = properties;
  expect(Number(expiration)).toBeGreaterThan(30_000);
  expect(Number(expiration)).toBeLessThanOrEqual(60_000);
  expect(correlationId).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(others).toMatchObject({ contentType: 'text/plain', headers: {}, deliveryMode: undefined, type: undefined });
  expect(replyTo).toMatch(/^amq\.gen-/);
  expect(await it.queueDetails(replyTo)).toMatchObject({ exclusive: true, durable: false });
  const consumers = await it.broker.ctl('list_consumers', '-p', it.vhost, 'queue_name', 'ack_required');
  expect(consumers).toContain(`${replyTo}\tfalse`);
  replying(['832040'])(channel, { properties } as ConsumeMessage);
  expect(await client.exit()).toBe(0);
});

test('names its connection, and so does the server', async () => {
  await it.server('--delay', '1000000');
  await it.client().shows(/Requesting/);
  const connections = await it.broker.ctl('list_connections', 'vhost', 'client_properties');
  const ours = connections.split('\n').filter((line) => line.startsWith(it.vhost));
  const names = ours.map((line) => /"connection_name","([^"]*)"/.exec(line)?.[1]);
  expect(names.sort()).toEqual(['rpc_client', 'rpc_server']);
});

test('without a broker fails at once, and says where it looked and how to start one', async () => {
  const client = it.run('rpc_client', ['--timeout', '600000'], 'amqp://user:s3cret@localhost:1/x');
  const reason = /^ \[!\] Cannot reach RabbitMQ at localhost:1: connect ECONNREFUSED \S+\. Start .*: npm run broker\n$/;
  expect(await client.end()).toEqual({ status: 1, stdout: '', stderr: expect.stringMatching(reason) });
});

test('without rpc_queue says how to start a server, and is answered when one comes', async () => {
  const client = it.client('--timeout', '600000');
  await client.shows(/^ \[!\] No reply for a second: there is no rpc_queue: start a .* src\/rpc_server\.ts$/m);
  await it.server();
  expect(await client.exit()).toBe(0);
});

test('tells servers that are busy from servers that are missing', async () => {
  await it.server('--delay', '1000000');
  const { status, stderr } = await it.client('--timeout', '3500', '1', '2', '3').end();
  const seen = 'rpc_queue has 1 server and 2 waiting requests\n';
  expect(status).toBe(1);
  expect(stderr.split(`No reply for a second: ${seen}`)).toHaveLength(2); // once
  expect(stderr).toMatch(/fib\(3\): no reply within 3500 ms; /);
  await it.queueHas({ messageCount: 0 }); // expired
});

test('reports the error of a server, cut and escaped, and goes on with the other calls', async () => {
  const failing = replying([`no \u001b[31mone\u009b\u202e ${'x'.repeat(1_000)}`, { type: 'error' }]);
  await it.peerServer((...all) => (all[1].content.toString() === '1' ? failing : replying(['1']))(...all));
  const { status, stdout, stderr } = await it.client('1', '2').end();
  expect(status).toBe(1);
  expect(stderr).toMatch(/^ \[!\] fib\(1\): no \\u\{1b\}\[31mone\\u\{9b\}\\u\{202e\} x{480,490}\n$/);
  expect(stdout).toContain(' [.] fib(2) = 1\n');
});

test('says of a batch whose servers vanish half-way that there is no reply', async () => {
  const server = await it.server('--delay', '300');
  const client = it.client('1', '2', '3', '4');
  await client.shows(/^ \[\.\] fib/m);
  server.kill('SIGKILL');
  await client.shows(/No reply for a second: rpc_queue has 0 servers/);
  await it.server();
  expect(await client.exit()).toBe(0);
});
