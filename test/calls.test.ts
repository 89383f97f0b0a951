// The client: what goes over the wire, how replies find their calls, and how calls end.
import type { ConsumeMessage } from 'amqplib';
import { Socket } from 'node:net';
import { expect, test, vi } from 'vitest';
import { fib } from '../src/fib';
import { RpcError } from '../src/rpc_client';
import { until } from './support/machine';
import { errorOf, replying, take, useVhost } from './support/vhost';

const vhost = useVhost();

test('several calls share one reply queue; each reply finds its call, in any order', async () => {
  const requests: ConsumeMessage[] = [];
  const channel = await vhost.answerWith((_, request) => requests.push(request));
  const client = vhost.runClient('30', '0', '100');
  await until('three requests', () => requests.length === 3);
  expect(new Set(requests.map(({ properties }) => properties.replyTo)).size).toBe(1);
  expect(new Set(requests.map(({ properties }) => properties.correlationId)).size).toBe(3);
  for (const n of [100, 0, 30]) {
    const request = requests.find(({ content }) => content.toString() === String(n))!;
    replying([String(fib(n))])(channel, request);
    await client.shows(new RegExp(`^ \\[\\.\\] fib\\(${n}\\) = ${fib(n)}\n$`, 'm'));
  }
  expect(await client.exit()).toBe(0);
});

test('a request has the properties that the README lists; its reply queue is exclusive', async () => {
  const channel = await vhost.declareQueue();
  const client = vhost.runClient('30');
  const { content, properties } = await take(channel, 'rpc_queue');
  expect(content.toString()).toBe('30');
  const { expiration, correlationId, replyTo, ...others } = properties;
  expect(Number(expiration)).toBeLessThanOrEqual(600_000);
  expect(correlationId).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-/);
  expect(others).toMatchObject({ contentType: 'text/plain', type: undefined, headers: {} });
  expect(await vhost.describeQueue(replyTo)).toMatchObject({ exclusive: true, durable: false });
  const list = ['list_consumers', '-p', vhost.name, 'queue_name', 'ack_required'];
  expect(await vhost.broker.ctl(...list)).toContain(`${replyTo}\tfalse`);
  const connections = await vhost.broker.ctl('list_connections', 'client_properties');
  expect(connections).toContain('{"connection_name","rpc_client"}');
  replying(['832040'])(channel, { properties } as ConsumeMessage);
  expect(await client.exit()).toBe(0);
});

test('a reply that no call waits for is dropped: unknown, without an id, or a second one', async () => {
  await vhost.answerWith((channel, request) => {
    replying(['1', { correlationId: 'unknown' }], ['2', { correlationId: '' }])(channel, request);
    replying(['3', { correlationId: undefined }], ['832040'], ['832040'], ['4'])(channel, request);
  });
  const setNoDelay = vi.spyOn(Socket.prototype, 'setNoDelay');
  const { call, log } = await vhost.connectClient();
  expect(setNoDelay).toHaveBeenCalledWith(true); // Nagle's algorithm would add 40 ms to a call
  for (let i = 0; i < 3; i++) expect(await call(30)).toBe('832040');
  expect(log).toEqual([]);
});

test('a call fails with a code: SERVER, TIMEOUT or CLOSED; close() takes leave properly', async () => {
  const fail = replying(['no \u001b[31mluck', { type: 'error' }]);
  await vhost.answerWith((...all) => String(all[1].content) === '1' && fail(...all));
  const { client, call } = await vhost.connectClient();
  const [failed, late] = await Promise.all([call(1), call(2, 500)].map(errorOf));
  expect(failed).toBeInstanceOf(RpcError);
  expect(failed).toMatchObject({ name: 'RpcError', code: 'SERVER', message: 'no \u001b[31mluck' });
  expect(late).toMatchObject({ code: 'TIMEOUT', message: 'no reply within 500 ms' });
  const pending = [call(2), call(2)].map(errorOf);
  await client.close();
  for (const error of [...(await Promise.all(pending)), await errorOf(call(2))]) {
    expect(error).toMatchObject({ code: 'CLOSED', message: 'the client is closed' });
  }
  const end = new RegExp(`closing AMQP connection .*vhost: '${vhost.name}'.*\n(.*)`);
  await until('the end', () => end.test(vhost.broker.log));
  expect(end.exec(vhost.broker.log)![1]).not.toContain('client unexpectedly closed TCP connection');
});
