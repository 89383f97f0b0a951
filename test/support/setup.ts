// What a run of the tests has once: the scripts as JavaScript, and a broker for all the suites that do it no harm.
import { execFileSync } from 'node:child_process';
import { chmodSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import type { TestProject } from 'vitest/node';
import { Broker, type BrokerDetails } from './broker';
import { Command, ROOT, cleanUp, freePort, newFolder, runFolder } from './processes';

declare module 'vitest' {
  interface ProvidedContext {
    broker: BrokerDetails;
    /** The shared broker's port for amqps, and the file of the CA that has signed its certificate. */
    tls: { port: number; ca: string };
  }
}

export default async function setUp(project: TestProject): Promise<() => Promise<void>> {
  process.env.RPC_RUN_FOLDER = runFolder(); // for the workers, which get this environment
  try {
    const [, { broker, tls }] = await Promise.all([build(), startBroker()]);
    project.provide('broker', broker.details);
    project.provide('tls', tls);
  } catch (error) {
    await cleanUp();
    throw error;
  }
  return cleanUp;
}

/** Checks the types of everything, and puts src as JavaScript where suite() looks for it. */
async function build(): Promise<void> {
  const folder = path.join(runFolder(), 'built');
  const tsc = new Command('node_modules/.bin/tsc', ['-p', 'test', '--noEmit', 'false', '--outDir', folder]);
  if ((await tsc.exit(300_000)) !== 0) throw new Error(`The types are wrong:\n${tsc.stdout}${tsc.stderr}`);
  symlinkSync(path.join(ROOT, 'node_modules'), path.join(folder, 'node_modules'));
}

async function startBroker() {
  const folder = newFolder('certificates');
  certify(folder);
  const port = await freePort();
  const broker = await Broker.start({
    managementPort: await freePort(),
    config: [
      'management_agent.disable_metrics_collector = true', // which costs time, and no test needs
      `listeners.ssl.1 = 127.0.0.1:${port}`,
      `ssl_options.cacertfile = ${folder}/ca.pem`,
      `ssl_options.certfile = ${folder}/localhost.pem`,
      `ssl_options.keyfile = ${folder}/localhost.key`,
    ],
  });
  return { broker, tls: { port, ca: `${folder}/ca.pem` } };
}

/** Makes a CA, and has it sign a certificate for localhost. */
function certify(folder: string): void {
  const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' });
  const key = ['-nodes', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'];
  const subject = (name: string) => [...key, '-subj', `/CN=${name}`, '-keyout', `${name}.key`];
  openssl('req', '-x509', '-days', '2', ...subject('ca'), '-out', 'ca.pem');
  openssl('req', ...subject('localhost'), '-addext', 'subjectAltName=DNS:localhost', '-out', 'localhost.csr');
  const ca = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-copy_extensions', 'copy'];
  openssl('x509', '-req', '-days', '2', '-in', 'localhost.csr', ...ca, '-out', 'localhost.pem');
  chmodSync(path.join(folder, 'localhost.key'), 0o644); // the broker may be another user
}
