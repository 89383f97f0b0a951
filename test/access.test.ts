// Users, passwords, permissions, virtual hosts and TLS: who is let in, and what is said to the others.
import { expect, test } from 'vitest';
import { SCRIPTS, useVhost } from './support/vhost';

const vhost = useVhost();
const PASSWORD = 'hunter2';

/** Adds a user with these permissions (configure, write, read), or none. @returns its URL */
async function addUser(permissions: string[] = [], name = 'nobody', password = PASSWORD) {
  const user = encodeURIComponent(name);
  await vhost.broker.api('PUT', `users/${user}`, { password, tags: '' });
  const [configure, write, read] = permissions;
  const resource = `permissions/${encodeURIComponent(vhost.name)}/${user}`;
  if (configure) await vhost.broker.api('PUT', resource, { configure, write, read });
  return vhost.broker.url(vhost.name, `${user}:${encodeURIComponent(password)}`);
}

/** Expects both sides to say why they are not let in: a client and ends, a server and tries on. */
async function expectRefused(url: string, reason: RegExp, env = {}) {
  for (const script of SCRIPTS) {
    const side = vhost.runScript(script, [], url, env);
    await side.shows(/^ \[!\] Cannot connect to RabbitMQ at \S+: .*\n/m);
    expect(side.stderr).toMatch(reason);
    expect(side.stderr.split('\n')).toHaveLength(2); // a line and its end
    expect(side.output).not.toContain(PASSWORD);
    if (script === 'rpc_client') expect(await side.exit()).toBe(1);
    else expect([side.running, /; trying again$/m.test(side.stderr)]).toEqual([true, true]);
  }
}

test('a wrong password, and a virtual host that is missing or closed, are refused', async () => {
  const wrong = vhost.broker.url(vhost.name, `guest:${PASSWORD}`);
  await expectRefused(wrong, /Handshake terminated by server: 403 \(ACCESS-REFUSED\)/);
  const missing = vhost.broker.url('no such');
  await expectRefused(missing, /: virtual host "no such" is missing, full, or forbidden/);
  await expectRefused(await addUser(), /: virtual host "test \S+" is missing, full, or forbidden/);
});

test('a user name and a password of any characters are taken, and an IPv6 address', async () => {
  const url = await addUser(['.*', '.*', '.*'], 'é#:', 'pä/%1@');
  const line = await vhost.startProxy({}, url, '[::1]');
  await vhost.startServer([], line.url);
  expect(await vhost.runScript('rpc_client', [], line.url).exit()).toBe(0);
});

test('amqps needs a certificate of a CA that Node is told to trust, and of that name', async () => {
  const { port, ca } = vhost.broker.details.tls!;
  const trust = { NODE_EXTRA_CA_CERTS: ca };
  const url = (host: string) => `amqps://guest:guest@${host}:${port}/${encodeURI(vhost.name)}`;
  await vhost.runScript('rpc_server', [], url('localhost'), trust).shows(/Awaiting/);
  expect(await vhost.runScript('rpc_client', [], url('localhost'), trust).exit()).toBe(0);
  await expectRefused(url('localhost'), /: self-signed certificate/);
  await expectRefused(url('127.0.0.1'), /: Hostname\/IP does not match certificate's/, trust);
});
