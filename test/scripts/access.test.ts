import { expect, test } from 'vitest';
import { count, until } from '../support/processes';
import { BACK, SCRIPTS, suite, type Script } from '../support/suite';

const it = suite();
const PASSWORD = 'hunter2';
let users = 0;

/** A user with these permissions (configure, write, read) on the test's virtual host, as a URL. */
const user = (...permissions: string[]) => userNamed(`user${++users}`, PASSWORD, ...permissions);

async function userNamed(name: string, password: string, ...permissions: string[]): Promise<string> {
  const [encoded, vhost] = [name, it.vhost].map(encodeURIComponent);
  await it.broker.api('PUT', `users/${encoded}`, { password, tags: '' });
  const [configure, write, read] = permissions;
  if (configure) await it.broker.api('PUT', `permissions/${vhost}/${encoded}`, { configure, write, read });
  return it.broker.url(it.vhost, `${encoded}:${encodeURIComponent(password)}`);
}

async function expectRefused(script: Script, url: string, message: RegExp, env?: NodeJS.ProcessEnv): Promise<void> {
  const { status, stdout, stderr } = await it.run(script, [], url, env).end();
  expect([status, stderr]).toEqual([1, expect.stringMatching(message)]);
  expect(count(stderr, /^ \[!\] .*\n/m)).toBe(1);
  expect(stdout + stderr).not.toContain(PASSWORD);
}

test.each(SCRIPTS)('%s says what is refused: user and password, or the virtual host', async (script) => {
  const AT = /^ \[!\] Cannot reach RabbitMQ at 127\.0\.0\.1:\d+: /.source;
  const wrong = it.broker.url(it.vhost, `guest:${PASSWORD}`);
  await expectRefused(script, wrong, new RegExp(`${AT}it refuses user "guest": wrong user name or password`));
  const missing = new RegExp(`${AT}it does not open virtual host "no such" to user "guest"`);
  await expectRefused(script, it.broker.url('no such'), missing);
  await expectRefused(script, await user(), /does not open virtual host "test \S+" to user "user\d+"/);
});

test('an IPv6 address in brackets, and a user name and a password of any characters, are taken', async () => {
  const line = await it.proxy({}, await userNamed('é#:', 'pä/%1@', '.*', '.*', '.*'), '[::1]');
  await it.serverAt(line.url);
  expect(await it.run('rpc_client', [], line.url).exit()).toBe(0);
});

test.each([
  ['read rpc_queue', ['.*', '.*', 'nothing'],
    /^ \[!\] Cannot reach RabbitMQ at \S+: it refuses permission: .*to queue 'rpc_queue' in vhost 'test \S+' refused/],
  ['write to amq.default', ['.*', 'nothing', '.*'],
    /^ \[!\] Lost the connection to RabbitMQ at \S+: it refuses permission: .*'amq\.default'/],
])('a server that may not %s says so, and leaves the request to another', async (_, permissions, message) => {
  await it.queue({ durable: true });
  const client = it.client();
  await it.queueHas({ messageCount: 1 });
  await expectRefused('rpc_server', await user(...permissions), message);
  await it.server();
  expect(await client.exit()).toBe(0);
});

test('a client that may not write to amq.default says so', async () => {
  const message = /^ \[!\] fib\(30\): Lost the connection to RabbitMQ at \S+: it refuses permission: .*'amq\.default'/;
  await expectRefused('rpc_client', await user('.*', 'nothing', '.*'), message);
});

test('a password that is refused while both sides reconnect is waited for, and said to be', async () => {
  const line = await it.proxy({}, await userNamed('rotated', PASSWORD, '.*', '.*', '.*'));
  const server = await it.serverAt(line.url);
  const { call, says } = await it.rpcClient(line.url);
  await userNamed('rotated', 'another');
  line.cut();
  const refused = /Lost the connection to RabbitMQ at \S+: it refuses user "rotated": wrong .*\. Trying again/;
  await Promise.all([server.shows(refused), says(refused)]);
  await userNamed('rotated', PASSWORD);
  await server.shows(/Awaiting/, { times: 2 });
  expect(await call(30)).toBe(832040n);
});

// The README's permissions, and the same without one on rpc_queue: RabbitMQ 4.2.6 and later ask for one at a look.
test.each([
  ['says what it waits for', '^(amq\\.default|rpc_queue)$', /rpc_queue has 0 servers and 1 waiting request: start/],
  ['says that it cannot, or what it sees', '^amq\\.default$', /rpc_queue (has 0 servers|cannot be seen: .*write$)/m],
])('a client with write on what it needs to see rpc_queue, or without, %s, and is answered', async (_, write, seen) => {
  await it.queue({ durable: true });
  const line = await it.proxy({}, await user('^amq\\.gen-.*$', write, '^amq\\.gen-.*$'));
  const { call, says } = await it.rpcClient(line.url);
  const answered = call(30);
  await says(seen);
  await it.server();
  expect(await answered).toBe(832040n);
  line.cut();
  await says(BACK);
  expect(await call(10)).toBe(55n); // held until it is seen that there is a server, or not
  const last = await it.broker.addVhost();
  await until('the log', () => it.broker.log.includes(last));
  if (write.includes('rpc_queue')) expect(it.broker.log).not.toContain(`refused for user 'user${users}'`);
});

test('amqps works with NODE_EXTRA_CA_CERTS; a wrong certificate, or another name, or no TLS are refused', async () => {
  const { port, ca } = it.broker.details.tls!;
  const CA = { NODE_EXTRA_CA_CERTS: ca };
  const tlsUrl = (host: string) => `amqps://guest:guest@${host}:${port}/${encodeURIComponent(it.vhost)}`;
  const line = await it.proxy({}, tlsUrl('127.0.0.1'));
  const server = it.run('rpc_server', [], line.url.replace('127.0.0.1', 'localhost'), CA);
  await server.shows(/Awaiting/);
  expect(await it.run('rpc_client', [], tlsUrl('localhost'), CA).exit()).toBe(0);
  line.target.port = String(it.broker.details.port); // which speaks no TLS: waited for, where it was reached once
  line.cut();
  await until('two attempts', () => line.accepted >= 3);
  line.target.port = String(port);
  await server.shows(/Awaiting/, { times: 2 });
  const untrusted = /^ \[!\] Cannot reach RabbitMQ at localhost:\d+: it fails the TLS handshake: .*certificate.*NODE_/;
  for (const script of SCRIPTS) await expectRefused(script, tlsUrl('localhost'), untrusted);
  await expectRefused('rpc_client', tlsUrl('127.0.0.1'), /fails the TLS handshake: .*ERR_TLS_CERT_ALTNAME_INVALID/, CA);
  await expectRefused('rpc_client', it.url.replace('amqp:', 'amqps:'), /fails the TLS handshake: .*ERR_SSL_/);
});
