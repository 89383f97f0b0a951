import { describe, expect, inject, test } from 'vitest';
import { Proxy } from '../support/proxy';
import { SCRIPTS, suite, type Script } from '../support/suite';

const it = suite();
const PASSWORD = 'hunter2';
let users = 0;

/** A user with these permissions (configure, write, read) on the test's virtual host, as a URL. */
async function user(...permissions: string[]): Promise<string> {
  return userNamed(`user${++users}`, PASSWORD, ...permissions);
}

async function userNamed(name: string, password: string, ...permissions: string[]): Promise<string> {
  const [encoded, vhost] = [name, it.vhost].map(encodeURIComponent);
  await it.broker.api('PUT', `users/${encoded}`, { password, tags: '' });
  const [configure, write, read] = permissions;
  if (configure) await it.broker.api('PUT', `permissions/${vhost}/${encoded}`, { configure, write, read });
  return it.broker.url(it.vhost, `${encoded}:${encodeURIComponent(password)}`);
}

async function expectRefused(script: Script, AMQP_URL: string, message: RegExp): Promise<void> {
  const command = it.run(script, [], { AMQP_URL });
  expect(await command.exit()).toBe(1);
  expect(command.stderr).toMatch(message);
  expect(command.stderr.match(/\n/g)).toHaveLength(1);
  expect(command.stdout + command.stderr).not.toContain(PASSWORD);
}

/** Expects a server and a client to find each other. */
async function expectAnswer(server: NodeJS.ProcessEnv, client = server): Promise<void> {
  await it.run('rpc_server', [], server).shows(/Awaiting/);
  const asking = it.run('rpc_client', [], client);
  expect(await asking.exit()).toBe(0);
  expect(asking.stdout).toContain(' [.] Got 832040\n');
}

describe.each(SCRIPTS)('%s says what was refused, and ends with status 1, given', (script) => {
  test.each([
    ['a wrong password', () => it.broker.url(it.vhost, `guest:${PASSWORD}`),
      /^ \[!\] RabbitMQ at 127\.0\.0\.1:\d+ refuses user "guest": wrong user name or password/],
    ['an unknown virtual host', () => it.broker.url('no such'),
      /^ \[!\] RabbitMQ at \S+ does not open virtual host "no such" to user "guest"/],
    ['a virtual host that the user may not enter', () => user(),
      /does not open virtual host "test \S+" to user "user\d+"/],
  ])('%s', async (_, url, message) => {
    await expectRefused(script, await url(), message);
  });

  test.each([
    ['no URL', `localhost ${PASSWORD}`, /AMQP_URL is not a URL/],
    ['another protocol', `http://guest:${PASSWORD}@localhost`, /AMQP_URL must begin with amqp:.* or amqps:.* not http/],
    ['a # in the password', `amqp://guest:12#${PASSWORD}@localhost`, /AMQP_URL holds an @ behind the host/],
    ['a / in the password', `amqp://guest:12/${PASSWORD}@localhost`, /AMQP_URL holds an @ behind the host/],
    ['a bad port', `amqp://guest:${PASSWORD}@localhost:99999`, /AMQP_URL is not a URL/],
    ['no host', `amqp://guest:${PASSWORD}@/vhost`, /AMQP_URL is not a URL/],
    ['neither user nor host', 'amqp:///vhost', /AMQP_URL is not a URL/],
    ...['abc', '', '0.4', '-1'].map((heartbeat): [string, string, RegExp] => [
      `a heartbeat of "${heartbeat}"`,
      `amqp://guest:${PASSWORD}@localhost?heartbeat=${heartbeat}`,
      new RegExp(`heartbeat in AMQP_URL must be whole seconds, not "${heartbeat}"`),
    ]),
  ])('%s in AMQP_URL', async (_, url, message) => {
    await expectRefused(script, url, message);
  });
});

test('an IPv6 address in brackets is taken', async () => {
  const proxy = await Proxy.start(it.url, '[::1]');
  await expectAnswer({ AMQP_URL: proxy.url });
  await proxy.end();
});

test('a user name and a password of any characters let both sides in', async () => {
  await expectAnswer({ AMQP_URL: await userNamed('é#:', 'pä/%1@', '.*', '.*', '.*') });
});

describe('permissions', () => {
  test('a server that may not read rpc_queue says so', async () => {
    const message = /refuses permission: .*access to queue 'rpc_queue' in vhost 'test \S+' refused/;
    await expectRefused('rpc_server', await user('.*', '.*', 'nothing'), message);
  });

  test('a client that may not write to amq.default says so', async () => {
    await it.server();
    const client = it.run('rpc_client', [], { AMQP_URL: await user('.*', 'nothing', '.*') });
    expect(await client.exit()).toBe(1);
    const message = /fib\(30\): RabbitMQ at \S+ refuses permission: .*'amq\.default' in vhost 'test \S+' refused/;
    expect(client.stderr).toMatch(message);
    expect(client.stderr).not.toContain(PASSWORD);
  });

  test('a server that may not write to amq.default says so, and leaves the request to another', async () => {
    const server = it.run('rpc_server', [], { AMQP_URL: await user('.*', 'nothing', '.*') });
    await server.shows(/Awaiting/);
    const client = it.client();
    expect(await server.exit()).toBe(1);
    expect(server.stderr).toMatch(/^ \[!\] RabbitMQ at \S+ refuses permission: .*'amq\.default'/);
    await it.server();
    expect(await client.exit()).toBe(0);
  });

  test('no more than each side needs are enough', async () => {
    const server = { AMQP_URL: await user('^rpc_queue$', '^amq\\.default$', '^rpc_queue$') };
    const client = { AMQP_URL: await user('^amq\\.gen-.*$', '^amq\\.default$', '^amq\\.gen-.*$') };
    await expectAnswer(server, client);
  });
});

describe('amqps', () => {
  const { port, ca } = inject('tls');
  const url = (host: string) => `amqps://guest:guest@${host}:${port}/${encodeURIComponent(it.vhost)}`;

  test('works with NODE_EXTRA_CA_CERTS', async () => {
    await expectAnswer({ AMQP_URL: url('localhost'), NODE_EXTRA_CA_CERTS: ca });
  });

  test.each(SCRIPTS)('%s refuses a certificate that it cannot trust', async (script) => {
    const message = /^ \[!\] RabbitMQ at localhost:\d+ fails the TLS handshake: .*certificate.*NODE_EXTRA_CA_CERTS/;
    await expectRefused(script, url('localhost'), message);
  });

  test('refuses a certificate of another name', async () => {
    const client = it.run('rpc_client', [], { AMQP_URL: url('127.0.0.1'), NODE_EXTRA_CA_CERTS: ca });
    expect(await client.exit()).toBe(1);
    expect(client.stderr).toMatch(/fails the TLS handshake: .*ERR_TLS_CERT_ALTNAME_INVALID/);
  });

  test('to a port that does not speak TLS is refused', async () => {
    await expectRefused('rpc_client', it.url.replace('amqp:', 'amqps:'), /fails the TLS handshake: .*ERR_SSL_/);
  });
});
