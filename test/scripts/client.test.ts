import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import type { Channel, ConsumeMessage } from 'amqplib';
import { describe, expect, test } from 'vitest';
import { fib } from '../../src/fib';
import { RpcClient } from '../../src/rpc_client';
import { ROOT, until } from '../support/processes';
import { suite, take } from '../support/suite';

const it = suite();

/** A server of any other port: `answer` gets each request. */
async function peerServer(answer: (channel: Channel, request: ConsumeMessage) => void) {
  const { channel } = await it.peer();
  await channel.assertQueue('rpc_queue');
  await channel.consume('rpc_queue', (request) => request && answer(channel, request), { noAck: true });
  return channel;
}

/** Answers with these properties and bodies, whatever was asked. */
const replying = (...replies: [string | Buffer, object?][]) => (channel: Channel, { properties }: ConsumeMessage) => {
  for (const [body, more] of replies) {
    channel.sendToQueue(properties.replyTo, Buffer.from(body), { correlationId: properties.correlationId, ...more });
  }
};

describe('the client', () => {
  test.each([[[]], [['']], [['30']]])('%j asks for fib(30)', async (args) => {
    await it.server();
    const client = it.client(...args);
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe(' [x] Requesting fib(30)\n [.] Got 832040\n');
    expect(client.stderr).toBe('');
  });

  test('sends several requests at once over one reply queue, and prints each answer as it arrives', async () => {
    const held: ConsumeMessage[] = [];
    const channel = await peerServer((_, request) => held.push(request));
    const client = it.client('30', '0', '100');
    await until('three requests', () => held.length === 3);
    expect(new Set(held.map(({ properties }) => properties.replyTo)).size).toBe(1);
    expect(new Set(held.map(({ properties }) => properties.correlationId)).size).toBe(3);
    expect(client.stdout).toBe(' [x] Requesting fib(30)\n [x] Requesting fib(0)\n [x] Requesting fib(100)\n');
    const answer = (n: number) => {
      const request = held.find(({ content }) => content.toString() === String(n))!;
      replying([String(fib(n))])(channel, request);
    };
    answer(100);
    await client.shows(/^ \[\.\] fib\(100\) = 354224848179261915075$/m);
    answer(0);
    await client.shows(/^ \[\.\] fib\(0\) = 0$/m);
    answer(30);
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toMatch(/ \[\.\] fib\(30\) = 832040\n$/);
  });

  test('sends what the tutorial says, and an expiration, as a mandatory message', async () => {
    const { channel } = await it.peer();
    await channel.assertQueue('rpc_queue');
    const client = it.client('--timeout', '20000', '30');
    const { content, properties, fields } = await take(channel, 'rpc_queue');
    expect(content.toString()).toBe('30');
    expect(fields).toMatchObject({ exchange: '', routingKey: 'rpc_queue' });
    const { expiration, correlationId, replyTo, ...others } = properties;
    expect(Number(expiration)).toBeGreaterThan(19_000);
    expect(Number(expiration)).toBeLessThanOrEqual(20_000);
    expect(correlationId).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(replyTo).toMatch(/^amq\.gen-/);
    expect(others).toMatchObject({ contentType: 'text/plain', headers: {} });
    expect([others.deliveryMode, others.type]).toEqual([undefined, undefined]);
    const queues = await it.broker.ctl('list_queues', '-p', it.vhost, 'name', 'exclusive', 'messages');
    expect(queues).toContain(`${replyTo}\ttrue\t0`);
    const consumers = await it.broker.ctl('list_consumers', '-p', it.vhost, 'queue_name', 'ack_required');
    expect(consumers).toContain(`${replyTo}\tfalse`);
    replying(['832040'])(channel, { properties } as ConsumeMessage);
    expect(await client.exit()).toBe(0);
  });

  test('names its connection, and so does the server', async () => {
    await it.server('--delay', '1000000');
    const client = it.client();
    await client.shows(/Requesting/);
    const connections = await it.broker.ctl('list_connections', 'vhost', 'client_properties');
    const names = connections.split('\n').filter((line) => line.startsWith(it.vhost)).map((line) => /"connection_name","([^"]*)"/.exec(line)?.[1]);
    expect(names.sort()).toEqual(['rpc_client', 'rpc_server']);
  });

  test('fails at once where there is no rpc_queue, and says how to start a server', async () => {
    const client = it.client('--timeout', '60000');
    expect(await client.exit(5_000)).toBe(1);
    expect(client.stderr).toBe(' [!] fib(30): there is no rpc_queue: start a server with: npx ts-node src/rpc_server.ts\n');
  });

  test('says once, after a second, that there is no server, and is answered by one that starts then', async () => {
    const { channel } = await it.peer();
    await channel.assertQueue('rpc_queue');
    const client = it.client('30', '31');
    const line = ' [!] No reply for a second: rpc_queue has 0 servers and 2 waiting requests: start a server with: npx ts-node src/rpc_server.ts\n';
    await until('the line', () => client.stderr === line);
    await it.server();
    expect(await client.exit()).toBe(0);
    expect(client.stderr).toBe(line);
  });

  test('ends at its timeout, and says what the queue looks like', async () => {
    const { channel } = await it.peer();
    await channel.assertQueue('rpc_queue');
    const client = it.client('--timeout', '300');
    expect(await client.exit(5_000)).toBe(1);
    expect(client.stderr).toMatch(/^ \[!\] fib\(30\): no reply within 300 ms; when last seen, rpc_queue has 0 servers and \d waiting requests?: start/);
    await until('no request left', async () => (await channel.checkQueue('rpc_queue')).messageCount === 0);
  });

  test('tells servers that are busy from servers that are missing', async () => {
    await it.server('--delay', '1000000');
    const client = it.client('--timeout', '3500', '1', '2', '3');
    expect(await client.exit(8_000)).toBe(1);
    expect(client.stderr.match(/No reply for a second: rpc_queue has 1 server and 2 waiting requests\n/g)).toHaveLength(1);
    expect(client.stderr).toMatch(/fib\(3\): no reply within 3500 ms; when last seen, rpc_queue has 1 server and 2 waiting requests\n/);
  });

  test('reports the error of a server, escaped, and goes on with the other calls', async () => {
    await peerServer((channel, request) => {
      replying(request.content.toString() === '1' ? ['no \u001b[31mone\u009b', { type: 'error' }] : ['1'])(channel, request);
    });
    const client = it.client('1', '2');
    expect(await client.exit()).toBe(1);
    expect(client.stderr).toBe(' [!] fib(1): no \\u{1b}[31mone\\u{9b}\n');
    expect(client.stdout).toContain(' [.] fib(2) = 1\n');
  });

  test('without a broker fails at once, and says where it looked and how to start one', async () => {
    const client = it.run('rpc_client', ['--timeout', '60000'], { AMQP_URL: 'amqp://user:s3cret@localhost:1/x' });
    expect(await client.exit(5_000)).toBe(1);
    expect(client.stderr).toMatch(/^ \[!\] Cannot reach RabbitMQ at localhost:1: connect ECONNREFUSED \S+\. Start one with: npm run broker\n$/);
    expect(client.stdout).toBe('');
  });
});

describe('the output of the client', () => {
  const value = ` [x] Requesting fib(1000000)\n [.] Got ${fib(1_000_000)}\n`;
  const sh = (command: string) => {
    const { npm_config_call, ...env } = process.env; // what `npx -c 'npm test'` was told, and would tell npx again
    return spawnSync('sh', ['-c', command], { cwd: ROOT, encoding: 'utf8', env: { ...env, AMQP_URL: it.url } });
  };

  test('ends quietly where its reader leaves', async () => {
    await it.server();
    const { stdout, stderr } = sh('node_modules/.bin/ts-node src/rpc_client.ts 1000000 | head -c 100');
    expect(stdout).toBe(value.slice(0, 100));
    expect(stderr).toBe('');
  });

  test('is whole in a file, and through a pipe with a slow reader', async () => {
    await it.server();
    const { stdout } = sh('f=$(mktemp); npx ts-node src/rpc_client.ts 1000000 > $f; cat $f; rm $f');
    expect(stdout === value).toBe(true); // 208,988 digits
    const slow = sh('node_modules/.bin/ts-node src/rpc_client.ts 1000000 | (sleep 2; sha256sum)'); // a reader, not a wait
    expect(slow.stdout.slice(0, 64)).toBe(createHash('sha256').update(value).digest('hex'));
  });
});

describe('the command line of the client', () => {
  test('--help prints the usage, the defaults and the environment variable', async () => {
    const client = it.client('--help');
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toMatch(/^Usage: npx ts-node src\/rpc_client.ts \[--timeout MS\] \[N \.\.\.\]\n[^]*default 30\)[^]*default 30000[^]*AMQP_URL/);
  });

  test.each([
    [['abc'], '"abc"'],
    [['1', '1000001'], '"1000001"'],
    [['-5'], "'-5'"],
    [['--', '-5'], '"-5"'],
    [['1.5'], '"1.5"'],
    [['5', ''], '""'],
    [['\u001b[31m'], '"\\u001b[31m"'],
    [['--timeout', '0', '5'], '"0"'],
    [['--timeout', '2147483648'], '"2147483648"'],
    [['--timeout', '1s'], '"1s"'],
    [['--timeout'], '--timeout'],
    [['--retries', '3'], '--retries'],
  ])('%j is wrong usage, noticed before connecting', async (args, named) => {
    const client = it.run('rpc_client', args, { AMQP_URL: 'amqp://localhost:1' });
    expect(await client.exit()).toBe(2);
    expect(client.stdout).toBe('');
    expect(client.stderr).toMatch(/^ \[!\] .*\nUsage: /);
    expect(client.stderr.split('\n')[0]).toContain(named);
  });
});

describe('the client class', () => {
  test('has many calls in flight on one connection, and prints nothing', async () => {
    await it.server();
    const client = await RpcClient.connect();
    const numbers = Array.from({ length: 300 }, (_, n) => n);
    expect(await Promise.all(numbers.map((n) => client.call(n)))).toEqual(numbers.map(fib));
    await client.close();
  });

  test('refuses a bad n and a bad timeout, and sends nothing', async () => {
    const { channel } = await it.peer();
    await channel.assertQueue('rpc_queue');
    const client = await RpcClient.connect();
    for (const n of [-1, 1.5, NaN, 1_000_001, '' as unknown as number]) await expect(client.call(n)).rejects.toThrow(RangeError);
    for (const timeout of [0, -1, 1.5, NaN, Infinity, 2 ** 31]) {
      await expect(client.call(1, { timeout })).rejects.toThrow(`timeout must be a whole number of milliseconds from 1 to 2147483647; got "${timeout}"`);
      await expect(RpcClient.connect({ timeout })).rejects.toThrow(RangeError);
    }
    await client.close();
    expect((await channel.checkQueue('rpc_queue')).messageCount).toBe(0);
  });

  test('close rejects what is pending and what comes later', async () => {
    const { channel } = await it.peer();
    await channel.assertQueue('rpc_queue');
    const client = await RpcClient.connect();
    const pending = [client.call(1), client.call(2)].map((call) => call.catch((error: Error) => error.message));
    await client.close();
    expect(await Promise.all(pending)).toEqual(['the client is closed', 'the client is closed']);
    await expect(client.call(3)).rejects.toThrow('the client is closed');
    await client.close();
  });

  test('drops a reply with an unknown, an empty or no correlation id, and one that comes twice', async () => {
    await peerServer((channel, request) => {
      replying(['1', { correlationId: 'unknown' }], ['2', { correlationId: '' }], ['3', { correlationId: undefined }])(channel, request);
      replying(['832040'], ['832040'], ['4'])(channel, request);
    });
    const log: string[] = [];
    const client = await RpcClient.connect({ log: (line) => log.push(line) });
    expect(await client.call(30)).toBe(832040n);
    await until('five dropped', () => log.length === 5);
    expect(log).toEqual(['1', '2', '3', '832040', '4'].map((body) => `Dropped a reply that no call waits for: "${body}"`));
    expect(await client.call(30)).toBe(832040n);
    await client.close();
  });

  test.each([
    ['an empty one', '', '""'],
    ['a word', 'abc', '"abc"'],
    ['a negative number', '-6246583658587674878', '"-6246583658587674878"'],
    ['hexadecimal digits', '0x1f', '"0x1f"'],
    ['invalid UTF-8', Buffer.from([0xff, 0xfe]), '"��"'],
    ['10 MB of digits', '1'.repeat(10_000_000), '10000000 bytes'],
    ['control characters', '\u001b]0;x\u0007', '"\\u001b]0;x\\u0007"'],
  ])('rejects a call whose reply is no number: %s', async (_, body, named) => {
    await peerServer((channel, request) => {
      replying(request.content.toString() === '1' ? [body] : ['1'])(channel, request);
    });
    const client = await RpcClient.connect();
    await expect(client.call(1)).rejects.toThrow(named);
    expect(await client.call(2)).toBe(1n); // on the same connection
    await client.close();
  });

  test('rejects a call with the error of a server, cut and escaped', async () => {
    await peerServer(replying([`\u001b[31m${'x'.repeat(1_000)}`, { type: 'error' }]));
    const client = await RpcClient.connect();
    const { message } = await client.call(1).then(String, (error: Error) => error) as Error;
    expect(message).toBe(`\\u{1b}[31m${'x'.repeat(495)}`);
    await client.close();
  });

  test('says of a late call what the queue looks like now, not what it looked like once', async () => {
    const client = await RpcClient.connect();
    await expect(client.call(30)).rejects.toThrow('there is no rpc_queue');
    const { channel } = await it.peer();
    await channel.assertQueue('rpc_queue');
    await channel.consume('rpc_queue', () => {});
    const call = () => client.call(30, { timeout: 200 }).then(String, (error: Error) => error.message);
    await until('what is so now', async () => (await call()).endsWith('when last seen, rpc_queue has 1 server and 0 waiting requests'));
    await client.close();
  });

  test('rejects a call that the broker refuses, since the queue is full', async () => {
    const { channel } = await it.peer();
    await channel.assertQueue('rpc_queue', { arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' } });
    const client = await RpcClient.connect();
    const first = client.call(1, { timeout: 2_000 }).catch((error: Error) => error.message);
    await until('a full queue', async () => (await channel.checkQueue('rpc_queue')).messageCount === 1);
    await expect(client.call(2)).rejects.toThrow('the broker refuses the request: rpc_queue is full');
    expect(await first).toMatch(/no reply within 2000 ms/);
    await client.close();
  });

  test('is imported without starting anything, as is the server', () => {
    const code = 'require("ts-node/register"); require("./src/rpc_client"); require("./src/rpc_server")';
    const { status, stdout, stderr } = spawnSync('node', ['-e', code], { cwd: ROOT, encoding: 'utf8', timeout: 10_000 });
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: '', stderr: '' });
  });
});
