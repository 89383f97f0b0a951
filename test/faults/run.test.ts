import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { connect } from 'node:net';
import { expect, test } from 'vitest';
import { Command, newFolder, processesWith, until } from '../support/processes';
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
  const own = { ...process.env, RPC_RUN_FOLDER: undefined, TMPDIR: folder, ...env };
  return { folder, run: new Command(process.execPath, ['-e', PROGRAM, ...modules], own) };
}

test('a run that is killed leaves no process, no port and no file behind', async () => {
  const { folder, run } = start();
  await run.shows(/port/);
  const connected = () => {
    const socket = connect(Number(/\d+/.exec(run.stdout)![0]), '127.0.0.1');
    return once(socket, 'connect').finally(() => socket.destroy());
  };
  await connected();
  const programs = [/\/beam\.smp /, /^epmd /m, /\/rpc_server\.js/];
  await until('all of it', () => programs.every((program) => program.test(processesWith(folder).join('\n'))));
  run.kill('SIGKILL');
  await until('the end of all processes', () => processesWith(folder).length === 0);
  await until('an empty folder', () => readdirSync(folder).length === 0);
  await expect(connected()).rejects.toThrow('ECONNREFUSED');
});

test('a run whose set-up fails leaves no process and no file behind', async () => {
  const { folder, run } = start({ RABBITMQ_SERVER: '/bin/false' });
  await run.shows(/did not start/);
  expect(await run.exit()).toBe(1);
  expect([processesWith(folder), readdirSync(folder)]).toEqual([[], []]);
});
