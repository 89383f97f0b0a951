// What a run of the tests has once: the scripts as JavaScript, and a broker that most tests share.
import { execFileSync } from 'node:child_process';
import { symlinkSync } from 'node:fs';
import path from 'node:path';
import { Broker } from './broker';
import { Command, ROOT, cleanUp, freePort, runFolder } from './machine';

export default async function setUp(): Promise<() => Promise<void>> {
  process.env.RPC_RUN_FOLDER = runFolder(); // for vitest's workers, which get this environment
  await Promise.all([build(), startBroker()]).catch(async (error) => {
    await cleanUp();
    throw error;
  });
  return cleanUp;
}

async function build(): Promise<void> {
  const folder = path.join(runFolder(), 'built');
  const args = ['-p', 'test', '--noEmit', 'false', '--noCheck', '--outDir', folder];
  const tsc = new Command('node_modules/.bin/tsc', args);
  if ((await tsc.exit()) !== 0) throw new Error(`It cannot be built:\n${tsc.output}`);
  symlinkSync(path.join(ROOT, 'node_modules'), path.join(folder, 'node_modules'));
}

/** Starts a broker that takes TLS, too, with a certificate of its own for localhost. */
async function startBroker(): Promise<void> {
  const ca = path.join(runFolder(), 'certificate.pem'); // with its key
  const name = '-subj /CN=localhost -addext subjectAltName=DNS:localhost';
  const command = `req -x509 -nodes -newkey rsa:2048 ${name} -keyout ${ca} -out ${ca}`;
  execFileSync('openssl', command.split(' '), { stdio: 'pipe' });
  const port = await freePort();
  const files = [`ssl_options.certfile = ${ca}`, `ssl_options.keyfile = ${ca}`];
  const { details } = await Broker.startForTests([`listeners.ssl.1 = 127.0.0.1:${port}`, ...files]);
  process.env.RPC_BROKER = JSON.stringify({ ...details, tls: { port, ca } });
}
