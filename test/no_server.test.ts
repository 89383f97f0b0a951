// The tutorial's first question: what a client does when no server is running.
import { expect, test } from 'vitest';
import { errorOf, replying, useVhost } from './support/vhost';

const vhost = useVhost();
test('a program can ask what rpc_queue looks like, and has an answer within a second', async () => {
  const line = await vhost.startProxy();
  const { client } = await vhost.connectClient(line.url);
  const hint = 'start a server with: npx ts-node src/rpc_server.ts';
  expect(await client.describeQueue()).toBe(`there is no rpc_queue: ${hint}`);
  line.hold('down');
  expect(await client.describeQueue()).toBe('RabbitMQ does not answer');
  line.cut();
  expect(await client.describeQueue()).toMatch(/^rpc_queue cannot be seen: /);
});

test('a request waits in the queue for a server that starts later, until its timeout', async () => {
  await vhost.declareQueue({ durable: true });
  expect(await vhost.runScript('rpc_client', ['--timeout', '500', '1']).exit()).toBe(1);
  const client = vhost.runClient('2');
  await vhost.queueHas({ messageCount: 1 });
  const server = await vhost.startServer();
  expect(await client.exit()).toBe(0);
  expect(server.stdout).not.toContain('fib(1)'); // it has expired
});

test('where there is no queue, requests go out again, and ever more rarely', async () => {
  const line = await vhost.startProxy();
  const { call } = await vhost.connectClient(line.url);
  const calls = [call(2), call(3)];
  const before = line.forwarded.up;
  expect(await errorOf(call(4, 6_000))).toMatchObject({ code: 'TIMEOUT' });
  const requests = (line.forwarded.up - before) / 250; // bytes each, at least
  expect(requests).toBeGreaterThan(2 * 3);
  expect(requests).toBeLessThan(6 * 3); // at 0, 0.5, 1.5, 3.5 and 5.5 s
  const asked: string[] = [];
  await vhost.answerWith((channel, request) => {
    asked.push(String(request.content));
    replying(['7'])(channel, request);
  });
  expect(await Promise.all(calls)).toEqual(['7', '7']);
  expect(asked.sort()).toEqual(['2', '3']);
});
