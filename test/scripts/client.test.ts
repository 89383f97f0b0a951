import type { ConsumeMessage } from 'amqplib';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { newFolder, until } from '../support/processes';
import { peerServer, replying, scriptFile, suite, take } from '../support/suite';

const it = suite();
const START_A_SERVER = 'start a server with: npx ts-node src/rpc_server.ts';

test.each([[[]], [['']], [['30']]])('%j asks for fib(30)', async (args) => {
  await it.server();
  const client = it.client(...args);
  expect(await client.exit()).toBe(0);
  expect(client.stdout).toBe(' [x] Requesting fib(30)\n [.] Got 832040\n');
  expect(client.stderr).toBe('');
});

test('npx ts-node src/rpc_client.ts 30 does, too', async () => {
  await it.server();
  const client = it.npx('rpc_client', '30');
  expect(await client.exit()).toBe(0);
  expect(client.stdout).toBe(' [x] Requesting fib(30)\n [.] Got 832040\n');
});

test('sends several requests at once over one reply queue, and prints each answer as it arrives', async () => {
  const held: ConsumeMessage[] = [];
  const channel = await peerServer(it, (_, request) => held.push(request));
  const client = it.client('30', '0', '100');
  await until('three requests', () => held.length === 3);
  expect(new Set(held.map(({ properties }) => properties.replyTo)).size).toBe(1);
  expect(new Set(held.map(({ properties }) => properties.correlationId)).size).toBe(3);
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
  expect(replyTo).toMatch(/^amq\.gen-/);
  expect(others).toMatchObject({ contentType: 'text/plain', headers: {} });
  expect([others.deliveryMode, others.type]).toEqual([undefined, undefined]);
  const replyQueue = await it.broker.api('GET', `queues/${encodeURIComponent(it.vhost)}/${replyTo}`);
  expect(replyQueue).toMatchObject({ exclusive: true, durable: false });
  const consumers = await it.broker.ctl('list_consumers', '-p', it.vhost, 'queue_name', 'ack_required');
  expect(consumers).toContain(`${replyTo}\tfalse`);
  replying(['832040'])(channel, { properties } as ConsumeMessage);
  expect(await client.exit()).toBe(0);
});

test('names its connection, and so does the server', async () => {
  await it.server('--delay', '1000000');
  await it.client().shows(/Requesting/);
  const connections = await it.broker.ctl('list_connections', 'vhost', 'client_properties');
  const names = connections.split('\n').filter((line) => line.startsWith(it.vhost))
    .map((line) => /"connection_name","([^"]*)"/.exec(line)?.[1]);
  expect(names.sort()).toEqual(['rpc_client', 'rpc_server']);
});

test('fails at once where there is no rpc_queue, and says how to start a server', async () => {
  const client = it.client('--timeout', '600000');
  expect(await client.exit()).toBe(1);
  expect(client.stderr).toBe(` [!] fib(30): there is no rpc_queue: ${START_A_SERVER}\n`);
});

test('says once, after a second, that there is no server, and is answered by one that starts then', async () => {
  await it.queue();
  const client = it.client('30', '31');
  const line = ` [!] No reply for a second: rpc_queue has 0 servers and 2 waiting requests: ${START_A_SERVER}\n`;
  await until('the line', () => client.stderr === line);
  await it.server();
  expect(await client.exit()).toBe(0);
  expect(client.stderr).toBe(line);
});

test('ends at its timeout, and says what the queue looks like', async () => {
  await it.queue();
  const client = it.client('--timeout', '900');
  expect(await client.exit()).toBe(1);
  const message = /^ \[!\] fib\(30\): no reply within 900 ms; when last seen, rpc_queue has 0 servers and \d waiting/;
  expect(client.stderr).toMatch(message);
  await it.queueHas({ messageCount: 0 });
});

test('tells servers that are busy from servers that are missing', async () => {
  await it.server('--delay', '1000000');
  const client = it.client('--timeout', '3500', '1', '2', '3');
  expect(await client.exit()).toBe(1);
  const seen = 'rpc_queue has 1 server and 2 waiting requests\n';
  expect(client.stderr.split(`No reply for a second: ${seen}`)).toHaveLength(2); // once
  expect(client.stderr).toContain(`fib(3): no reply within 3500 ms; when last seen, ${seen}`);
});

test('reports the error of a server, escaped, and goes on with the other calls', async () => {
  const failing = replying(['no \u001b[31mone\u009b', { type: 'error' }]);
  await peerServer(it, (channel, request) => {
    (request.content.toString() === '1' ? failing : replying(['1']))(channel, request);
  });
  const client = it.client('1', '2');
  expect(await client.exit()).toBe(1);
  expect(client.stderr).toBe(' [!] fib(1): no \\u{1b}[31mone\\u{9b}\n');
  expect(client.stdout).toContain(' [.] fib(2) = 1\n');
});

test('without a broker fails at once, and says where it looked and how to start one', async () => {
  const client = it.run('rpc_client', ['--timeout', '600000'], { AMQP_URL: 'amqp://user:s3cret@localhost:1/x' });
  expect(await client.exit()).toBe(1);
  const reason = /^ \[!\] Cannot reach RabbitMQ at localhost:1: connect ECONNREFUSED \S+\./;
  expect(client.stderr).toMatch(new RegExp(`${reason.source} Start one with: npm run broker\n$`));
  expect(client.stdout).toBe('');
});

describe('the output of the client', () => {
  const value = ` [x] Requesting fib(1000000)\n [.] Got ${fib(1_000_000)}\n`; // 208,988 digits

  test.each([
    ['ends quietly where its reader leaves', '"$@" | head -c 100', value.slice(0, 100)],
    ['is whole through a pipe with a slow reader', '"$@" | (sleep 1; cat)', value], // a reader, not a wait
    ['is whole in a file', '"$@" > "$0" && cat "$0"', value],
  ])('%s', async (_, command, expected) => {
    await it.server();
    const file = path.join(newFolder('output'), 'file');
    const shell = it.command('sh', ['-c', command, file, process.execPath, scriptFile('rpc_client'), '1000000']);
    expect(await shell.exit()).toBe(0);
    expect(shell.stdout === expected).toBe(true);
    expect(shell.stderr).toBe('');
  });
});
