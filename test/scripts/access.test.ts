import { execFileSync } from 'node:child_process';
import { chmodSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { Broker } from '../support/broker';
import { freePort, newFolder } from '../support/processes';
import { suite } from '../support/suite';

const it = suite();
const PASSWORD = 'hunter2';
let users = 0;

/** A user with these permissions on the test's virtual host, as a URL. */
async function user(...permissions: string[]): Promise<string> {
  const name = `user${++users}`;
  await it.broker.ctl('add_user', name, PASSWORD);
  if (permissions.length > 0) await it.broker.ctl('set_permissions', '-p', it.vhost, name, ...permissions);
  return it.broker.url(it.vhost, `${name}:${PASSWORD}`);
}

async function expectRefused(script: 'rpc_server' | 'rpc_client', AMQP_URL: string, message: RegExp): Promise<void> {
  const command = it.run(script, [], { AMQP_URL });
  expect(await command.exit(5_000)).toBe(1);
  expect(command.stderr).toMatch(message);
  expect(command.stderr.match(/\n/g)).toHaveLength(1);
  expect(command.stdout + command.stderr).not.toContain(PASSWORD);
}

describe.each(['rpc_server', 'rpc_client'] as const)('%s says what was refused, and ends with status 1, given', (script) => {
  test('a wrong password', async () => {
    await expectRefused(script, it.broker.url(it.vhost, `guest:${PASSWORD}`), /^ \[!\] RabbitMQ at 127\.0\.0\.1:\d+ refuses user "guest": wrong user name or password/);
  });

  test('an unknown virtual host', async () => {
    await expectRefused(script, it.broker.url('no such'), /^ \[!\] RabbitMQ at \S+ does not open virtual host "no such" to user "guest"/);
  });

  test('a virtual host that the user may not enter', async () => {
    await expectRefused(script, await user(), /does not open virtual host "test \d+" to user "user\d+"/);
  });

  test.each([
    ['no URL', `localhost ${PASSWORD}`, /AMQP_URL is not a URL/],
    ['another protocol', `http://guest:${PASSWORD}@localhost`, /AMQP_URL must begin with amqp:\/\/ or amqps:\/\/, not http:/],
    ['a # in the password', `amqp://guest:12#${PASSWORD}@localhost`, /AMQP_URL holds an @ behind the host/],
    ['a / in the password', `amqp://guest:12/${PASSWORD}@localhost`, /AMQP_URL holds an @ behind the host/],
    ['a bad port', `amqp://guest:${PASSWORD}@localhost:99999`, /AMQP_URL is not a URL/],
    ['a bad heartbeat', `amqp://guest:${PASSWORD}@localhost?heartbeat=often`, /heartbeat in AMQP_URL must be whole seconds, not "often"/],
  ])('%s in AMQP_URL', async (_, url, message) => {
    await expectRefused(script, url, message);
  });
});

test('a user name and a password of any characters let both sides in', async () => {
  await it.broker.ctl('add_user', 'é#:', 'pä/%1@');
  await it.broker.ctl('set_permissions', '-p', it.vhost, 'é#:', '.*', '.*', '.*');
  const AMQP_URL = it.broker.url(it.vhost, `${encodeURIComponent('é#:')}:${encodeURIComponent('pä/%1@')}`);
  const server = it.run('rpc_server', [], { AMQP_URL });
  await server.shows(/Awaiting/);
  expect(await it.run('rpc_client', [], { AMQP_URL }).exit()).toBe(0);
});

describe('permissions', () => {
  test('a server that may not read rpc_queue says so', async () => {
    await expectRefused('rpc_server', await user('.*', '.*', 'nothing'), /refuses permission: .*access to queue 'rpc_queue' in vhost 'test \d+' refused/);
  });

  test('a client that may not write to amq.default says so', async () => {
    await it.server();
    const AMQP_URL = await user('.*', 'nothing', '.*');
    const client = it.run('rpc_client', [], { AMQP_URL });
    expect(await client.exit(5_000)).toBe(1);
    expect(client.stderr).toMatch(/fib\(30\): RabbitMQ at \S+ refuses permission: .*'amq\.default' in vhost 'test \d+' refused/);
    expect(client.stderr).not.toContain(PASSWORD);
  });

  test('a server that may not write to amq.default says so, and leaves the request to another', async () => {
    const server = it.run('rpc_server', [], { AMQP_URL: await user('.*', 'nothing', '.*') });
    await server.shows(/Awaiting/);
    const client = it.client();
    expect(await server.exit(5_000)).toBe(1);
    expect(server.stderr).toMatch(/^ \[!\] RabbitMQ at \S+ refuses permission: .*'amq\.default'/);
    await it.server();
    expect(await client.exit()).toBe(0);
  });

  test('no more than each side needs are enough', async () => {
    const server = it.run('rpc_server', [], { AMQP_URL: await user('^rpc_queue$', '^amq\\.default$', '^rpc_queue$') });
    await server.shows(/Awaiting/);
    const client = it.run('rpc_client', [], { AMQP_URL: await user('^amq\\.gen-.*$', '^amq\\.default$', '^amq\\.gen-.*$') });
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toContain(' [.] Got 832040\n');
  });
});

describe('amqps', () => {
  let folder: string;
  let url: string;

  beforeAll(async () => {
    folder = newFolder('certificates');
    const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' });
    const subject = (name: string) => ['-nodes', '-newkey', 'rsa:2048', '-subj', `/CN=${name}`, '-keyout', `${name}.key`];
    openssl('req', '-x509', '-days', '2', ...subject('ca'), '-out', 'ca.pem');
    openssl('req', ...subject('localhost'), '-addext', 'subjectAltName=DNS:localhost', '-out', 'localhost.csr');
    openssl('x509', '-req', '-days', '2', '-in', 'localhost.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-copy_extensions', 'copy', '-out', 'localhost.pem');
    chmodSync(path.join(folder, 'localhost.key'), 0o644);
    const tls = await freePort();
    await Broker.start({
      config: [
        `listeners.ssl.1 = 127.0.0.1:${tls}`,
        `ssl_options.cacertfile = ${folder}/ca.pem`,
        `ssl_options.certfile = ${folder}/localhost.pem`,
        `ssl_options.keyfile = ${folder}/localhost.key`,
      ],
    });
    url = `amqps://guest:guest@localhost:${tls}`;
  });

  test('works with NODE_EXTRA_CA_CERTS', async () => {
    const env = { AMQP_URL: url, NODE_EXTRA_CA_CERTS: path.join(folder, 'ca.pem') };
    const server = it.run('rpc_server', [], env);
    await server.shows(/Awaiting/);
    const client = it.run('rpc_client', [], env);
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toContain(' [.] Got 832040\n');
  });

  test.each(['rpc_server', 'rpc_client'] as const)('%s refuses a certificate that it cannot trust', async (script) => {
    await expectRefused(script, url, /^ \[!\] RabbitMQ at localhost:\d+ fails the TLS handshake: .*certificate.*NODE_EXTRA_CA_CERTS/);
  });

  test('refuses a certificate of another name', async () => {
    const env = { AMQP_URL: url.replace('localhost', '127.0.0.1'), NODE_EXTRA_CA_CERTS: path.join(folder, 'ca.pem') };
    const client = it.run('rpc_client', [], env);
    expect(await client.exit(5_000)).toBe(1);
    expect(client.stderr).toMatch(/fails the TLS handshake: .*ERR_TLS_CERT_ALTNAME_INVALID/);
  });

  test('to a port that does not speak TLS is refused', async () => {
    await expectRefused('rpc_client', it.url.replace('amqp:', 'amqps:'), /fails the TLS handshake: .*ERR_SSL_/);
  });
});
