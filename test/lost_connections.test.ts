// What happens when the line between the broker and a server or client fails, in any way.
import { expect, test } from 'vitest';
import { keepConnected, parseUrl, type Session } from '../src/connection';
import { until } from './support/machine';
import { BACK, LOST, errorOf, useVhost } from './support/vhost';

const vhost = useVhost();

test('a connection that comes and goes is tried more and more rarely, and told of once', async () => {
  const line = await vhost.startProxy();
  const { client, log, logs } = await vhost.connectClient(line.url);
  for (const end = performance.now() + 15_000; performance.now() < end; line.cut('FIN')) {
    await until('a connection', async () => /^there is no/.test(await client.describeQueue()));
  }
  expect(line.accepted).toBeLessThanOrEqual(18);
  expect([log.length, log[0]]).toEqual([1, expect.stringMatching(LOST)]);
  await logs(BACK);
  line.cut('FIN');
  await until('news, since it had lasted', () => log.length === 3);
  expect(log[2]).toMatch(LOST);
});

test('a handshake that is slow is given up: a client ends, a server tries on', async () => {
  const line = await vhost.startProxy({ delay: 3_000 });
  const client = vhost.runScript('rpc_client', [], line.url);
  const server = vhost.runScript('rpc_server', [], line.url);
  const message = /^ \[!\] Cannot connect to RabbitMQ at \S+: no answer within ten seconds/;
  for (const side of [client, server]) await side.shows(message);
  expect(await client.exit()).toBe(1);
  line.faults = {};
  await server.shows(/Awaiting/);
});

test('a broker that is away ends a client at the start; all else waits, but no stopped server', async () => {
  const line = await vhost.startProxy();
  const server = await vhost.startServer([], line.url);
  const { call, logs } = await vhost.connectClient(line.url);
  await line.refuse();
  await Promise.all([server.shows(LOST), logs(LOST)]);
  const second = vhost.runScript('rpc_server', [], line.url);
  await second.shows(/^ \[!\] Cannot connect to RabbitMQ at \S+: connect ECONNREFUSED .*; trying/m);
  const client = await vhost.runScript('rpc_client', [], line.url).end();
  const stderr = expect.stringMatching(/^ \[!\] Cannot connect to .* connect ECONNREFUSED \S+\n$/);
  expect(client).toEqual({ status: 1, stdout: '', stderr });
  expect(await errorOf(call(30, 300))).toMatchObject({ code: 'TIMEOUT' });
  server.kill('SIGTERM');
  expect(await server.exit()).toBe(0);
  const answered = call(30);
  await line.listen();
  expect(await answered).toBe('832040');
});

test('a stop does not wait for work in hand once the connection is lost', async () => {
  const line = await vhost.startProxy();
  const stop = new AbortController();
  const setUp = async (session: Session) => {
    session.finishWork = () => new Promise(() => line.cut()); // never done
    setImmediate(() => stop.abort());
  };
  const options = { url: parseUrl(line.url), name: 'test', setUp, log: expect.fail };
  await keepConnected({ ...options, stop: stop.signal });
});
