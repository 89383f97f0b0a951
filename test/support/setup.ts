// What a run of the tests has once: the scripts as JavaScript, and a broker for all the suites that do it no harm.
import { execFileSync } from 'node:child_process';
import { chmodSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import { Broker } from './broker';
import { Command, ROOT, cleanUp, freePort, newFolder, runFolder } from './processes';

export default async function setUp(): Promise<() => Promise<void>> {
  process.env.RPC_RUN_FOLDER = runFolder(); // for the workers, which get this environment
  try {
    await Promise.all([build(), startBroker()]);
  } catch (error) {
    await cleanUp();
    throw error;
  }
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
  const folder = newFolder('certificates');
  certify(folder);
  const port = await freePort();
  const config = [
    `listeners.ssl.1 = 127.0.0.1:${port}`,
    `ssl_options.cacertfile = ${folder}/ca.pem`,
    `ssl_options.certfile = ${folder}/localhost.pem`,
    `ssl_options.keyfile = ${folder}/localhost.key`,
  ];
  const { details } = await Broker.startForTests(config);
  process.env.RPC_BROKER = JSON.stringify({ ...details, tls: { port, ca: `${folder}/ca.pem` } });
}

/** Makes a CA, and has it sign a certificate for localhost. */
function certify(folder: string): void {
  const openssl = (command: string) => execFileSync('openssl', command.split(' '), { cwd: folder, stdio: 'pipe' });
  const key = '-nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1';
  openssl(`req -x509 -days 2 ${key} -subj /CN=ca -keyout ca.key -out ca.pem`);
  const host = '-subj /CN=localhost -addext subjectAltName=DNS:localhost';
  openssl(`req ${key} ${host} -keyout localhost.key -out localhost.csr`);
  const ca = '-CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copy';
  openssl(`x509 -req -days 2 -in localhost.csr ${ca} -out localhost.pem`);
  chmodSync(path.join(folder, 'localhost.key'), 0o644); // the broker may be another user
}
