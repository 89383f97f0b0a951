import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import type { Outcome } from '../support/command_lines';
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
  expectRefusal(await it.run(script, [], url, env).end(), message);
}

function expectRefusal(outcome: Outcome, message: RegExp): void {
  expect(outcome).toMatchObject({ status: 1, stderr: expect.stringMatching(message) });
  expect(count(outcome.stderr, /^ \[!\] .*\n/m)).toBe(1);
  expect(outcome.stdout + outcome.stderr).not.toContain(PASSWORD);
}

/** Expects a server and a client to find each other. */
async function expectAnswer(url: string): Promise<void> {
  await it.serverAt(url);
  expect(await it.run('rpc_client', [], url).exit()).toBe(0);
}

const AT = `amqp://guest:${PASSWORD}@`;
const MALFORMED: [string, RegExp][] = [
  [`localhost ${PASSWORD}`, /AMQP_URL is not a URL such as/],
  [`http://u:${PASSWORD}@localhost:1`, /AMQP_URL must begin with amqp: or amqps:, not http/],
  [`amqp://guest:12#${PASSWORD}@localhost:1`, /AMQP_URL holds an @ behind the host/],
  [`amqp://guest:12/${PASSWORD}@localhost:1`, /AMQP_URL holds an @ behind the host/],
  [`${AT}localhost:99999`, /AMQP_URL is not a URL such as/],
  [`${AT}/vhost`, /AMQP_URL is not a URL such as/],
  ['amqp:///vhost', /AMQP_URL is not a URL such as/],
  ...['abc', '', '0.4', '-1'].map((heartbeat): [string, RegExp] => [`${AT}localhost:1?heartbeat=${heartbeat}`,
    new RegExp(`heartbeat in AMQP_URL must be whole seconds, not "${heartbeat}"`)]),
];

test.each(SCRIPTS)('%s says what is wrong with a URL, before connecting, and ends with status 1', async (script) => {
  const outcomes = await it.outcomes(script, MALFORMED.map(([url]) => ({ args: [], url })));
  MALFORMED.forEach(([, message], i) => expectRefusal(outcomes[i]!, message));
  await expectRefused(script, ...MALFORMED[0]!); // as a process of its own
});

const REFUSALS: [string, RegExp, () => string | Promise<string>][] = [
  ['a wrong password', /^ \[!\] Cannot reach RabbitMQ at 127\.0\.0\.1:\d+: it refuses user "guest": wrong user name or/,
    () => it.broker.url(it.vhost, `guest:${PASSWORD}`)],
  ['an unknown virtual host', /^ \[!\] Cannot reach RabbitMQ at \S+: it does not open virtual host "no such" to user/,
    () => it.broker.url('no such')],
  ['a virtual host closed to the user', /does not open virtual host "test \S+" to user "user\d+"/, () => user()],
];

test.each(SCRIPTS.flatMap((script) => REFUSALS.map((refusal) => [script, ...refusal] as const)))(
  '%s, given %s, says what was refused, and ends with status 1',
  async (script, _, message, url) => expectRefused(script, await url(), message),
);

test('an IPv6 address in brackets is taken', async () => expectAnswer((await it.proxy({}, it.url, '[::1]')).url));

test('a user name and a password of any characters let both sides in', async () => {
  await expectAnswer(await userNamed('é#:', 'pä/%1@', '.*', '.*', '.*'));
});

test('a server that may not read rpc_queue says so', async () => {
  const message = /refuses permission: .*access to queue 'rpc_queue' in vhost 'test \S+' refused/;
  await expectRefused('rpc_server', await user('.*', '.*', 'nothing'), message);
});

test('a password that is refused while both sides reconnect is waited for, and said to be', async () => {
  const url = await userNamed('rotated', PASSWORD, '.*', '.*', '.*');
  const server = await it.serverAt(url);
  const { client, log } = await it.rpcClient(url);
  await userNamed('rotated', 'another');
  await it.broker.closeConnections(it.vhost);
  const refused = /Lost the connection to RabbitMQ at \S+: it refuses user "rotated": wrong .*\. Trying again/;
  await server.shows(refused);
  await until('the refusal', () => refused.test(log.join('\n')));
  await userNamed('rotated', PASSWORD);
  await server.shows(/Awaiting/, { times: 2 });
  expect(await client.call(30, { timeout: 600_000 })).toBe(832040n);
});

function brokerLog(): string {
  const folder = it.broker.details.env.RABBITMQ_LOG_BASE!;
  return readdirSync(folder).map((file) => readFileSync(path.join(folder, file), 'utf8')).join('');
}

// The README's permissions, and the same without one on rpc_queue: RabbitMQ 4.2.6 and later ask for one at a look.
test.each([
  ['says what it waits for', '^(amq\\.default|rpc_queue)$', /rpc_queue has 0 servers and 1 waiting request: start/],
  ['says that it cannot, or what it sees', '^amq\\.default$', /rpc_queue (has 0 servers|cannot be seen: .*write$)/m],
])('a client with write on what it needs to see rpc_queue, or without, %s, and is answered', async (_, write, seen) => {
  await it.queue({ durable: true });
  const { client, log } = await it.rpcClient(await user('^amq\\.gen-.*$', write, '^amq\\.gen-.*$'));
  const name = `user${users}`;
  const call = client.call(30, { timeout: 600_000 });
  await until('a second', () => log.length > 0);
  expect(log.join('\n')).toMatch(seen);
  await it.server();
  expect(await call).toBe(832040n);
  await it.broker.closeConnections(it.vhost);
  await until('the way back', () => BACK.test(log.join('\n')));
  if (write.includes('rpc_queue')) expect(brokerLog()).not.toContain(`refused for user '${name}'`);
  expect(await client.call(10, { timeout: 600_000 })).toBe(55n); // held until it is seen that there is a server, or not
});

test('a client that may not write to amq.default says so', async () => {
  await it.server();
  const message = /fib\(30\): Lost the connection to RabbitMQ at \S+: it refuses permission: .*'amq\.default' in vhost/;
  await expectRefused('rpc_client', await user('.*', 'nothing', '.*'), message);
});

test('a server that may not write to amq.default says so, and leaves the request to another', async () => {
  const server = await it.serverAt(await user('.*', 'nothing', '.*'));
  const client = it.client();
  const message = /^ \[!\] Lost the connection to RabbitMQ at \S+: it refuses permission: .*'amq\.default'/;
  expect(await server.end()).toMatchObject({ status: 1, stderr: expect.stringMatching(message) });
  await it.server();
  expect(await client.exit()).toBe(0);
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
