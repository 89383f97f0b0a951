// What a run of the tests has once: the scripts as JavaScript, and a broker for all the suites that do it no harm.
import { execFileSync } from 'node:child_process';
import { chmodSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import { Broker } from './broker';
import { Command, ROOT, cleanUp, freePort, newFolder, runFolder } from './processes';

export default async function setUp(): Promise<() => Promise<void>> {
  process.env.RPC_RUN_FOLDER = runFolder(); // for the workers, which get this environment
  await Promise.all([build(), startBroker()]).catch((error) => cleanUp().then(() => Promise.reject(error)));
  return cleanUp;
}

/** Checks the types of everything, and puts it as JavaScript where built() looks for it. */
async function build(): Promise<void> {
  const folder = path.join(runFolder(), 'built');
  const tsc = new Command('node_modules/.bin/tsc', ['-p', 'test', '--noEmit', 'false', '--outDir', folder]);
  if ((await tsc.exit()) !== 0) throw new Error(`The types are wrong:\n${tsc.stdout}${tsc.stderr}`);
  symlinkSync(path.join(ROOT, 'node_modules'), path.join(folder, 'node_modules'));
}

async function startBroker(): Promise<void> {
  const [folder, port] = [newFolder('certificate'), await freePort()];
  const [certificate, key] = [`${folder}/certificate.pem`, `${folder}/key.pem`];
  const [name, kind] = ['-subj /CN=localhost -addext subjectAltName=DNS:localhost', 'ec_paramgen_curve:prime256v1'];
  const command = `req -x509 -days 2 -nodes ${name} -newkey ec -pkeyopt ${kind} -keyout ${key} -out ${certificate}`;
  execFileSync('openssl', command.split(' '), { stdio: 'pipe' });
  chmodSync(key, 0o644); // the broker may be another user
  const files = [`ssl_options.certfile = ${certificate}`, `ssl_options.keyfile = ${key}`];
  const { details } = await Broker.startForTests([`listeners.ssl.1 = 127.0.0.1:${port}`, ...files]);
  process.env.RPC_BROKER = JSON.stringify({ ...details, tls: { port, ca: certificate } });
}
