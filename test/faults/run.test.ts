import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { connect } from 'node:net';
import path from 'node:path';
import { expect, test } from 'vitest';
import { Command, newFolder, until } from '../support/processes';
import { built } from '../support/suite';

// Starts what a run of the tests does, and says the port of what answers first.
const PROGRAM = `
const [{ Broker }, { Command, runScript }, server] = [...process.argv.slice(1, 3).map(require), process.argv[3]];
runScript(async () => {
  const broker = await Broker.prepare();
  new Command(process.execPath, [server], { ...process.env, AMQP_URL: broker.url() });
  console.log('port', broker.details.env.ERL_EPMD_PORT);
  await broker.boot();
});
`;

/** Runs that, with its folder in a folder of ours. */
function start(env: NodeJS.ProcessEnv = {}) {
  const folder = newFolder('tmp');
  const modules = ['test/support/broker', 'test/support/processes', 'src/rpc_server'].map(built);
  const run = new Command(process.execPath, ['-e', PROGRAM, ...modules], {
    ...process.env, RPC_RUN_FOLDER: undefined, TMPDIR: folder, ...env,
  });
  /** The programs of all processes that have this folder in their environment or arguments, but for the run itself. */
  const programs = () => {
    const processes = execFileSync('ps', ['axeww', '-o', 'pid=,args='], { encoding: 'utf8', maxBuffer: 2 ** 26 });
    const started = processes.split('\n').filter((line) => line.includes(folder) && parseInt(line) !== run.child.pid);
    return started.map((line) => path.basename(line.trim().split(/\s+/)[1]!) + (/rpc_\w+\.js/.exec(line) ?? ''));
  };
  return { folder, run, programs };
}

test('a run that is killed leaves no process, no port and no file behind', async () => {
  const { folder, run, programs } = start();
  await run.shows(/port/);
  const connected = () => {
    const socket = connect(Number(/\d+/.exec(run.stdout)![0]), '127.0.0.1');
    return once(socket, 'connect').finally(() => socket.destroy());
  };
  await connected();
  await until('all of it', () => ['beam.smp', 'epmd', 'noderpc_server.js'].every((one) => programs().includes(one)));
  run.kill('SIGKILL');
  await until('the end of all processes', () => programs().length === 0);
  await until('an empty folder', () => readdirSync(folder).length === 0);
  await expect(connected()).rejects.toThrow('ECONNREFUSED');
});

test('a run whose set-up fails leaves no process and no file behind', async () => {
  const { folder, run, programs } = start({ RABBITMQ_SERVER: '/bin/false' });
  await run.shows(/did not start/);
  expect(await run.exit()).toBe(1);
  expect(programs()).toEqual([]);
  expect(readdirSync(folder)).toEqual([]);
});
