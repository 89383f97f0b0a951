import { once } from 'node:events';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { connect } from 'node:net';
import { expect, test } from 'vitest';
import { Command, freePort, newFolder, processesWith, until } from '../support/processes';
import { built } from '../support/suite';

/** Runs npm run broker, which starts and ends processes as a run of the tests does, with its folder in one of ours. */
async function start(env: NodeJS.ProcessEnv = {}) {
  const folder = newFolder('tmp');
  const ports = { BROKER_PORT: String(await freePort()), BROKER_MANAGEMENT_PORT: String(await freePort()) };
  const own = { ...process.env, ...ports, RPC_RUN_FOLDER: undefined, TMPDIR: folder, ...env };
  const run = new Command(process.execPath, [built('test/tools/broker')], own);
  return { folder, run, processes: () => processesWith(folder).join('\n') };
}

test('a run that is killed leaves no process, no port and no file behind', async () => {
  const { folder, run, processes } = await start();
  await until('all of it', () => [/\/beam\.smp /, /^epmd /m].every((program) => program.test(processes())));
  const port = Number(/ERL_EPMD_PORT=(\d+)/.exec(processes())![1]);
  const connected = () => {
    const socket = connect(port, '127.0.0.1');
    return once(socket, 'connect').finally(() => socket.destroy());
  };
  await connected();
  run.kill('SIGKILL');
  await until('the end of all processes', () => processes() === '');
  await until('an empty folder', () => readdirSync(folder).length === 0);
  await expect(connected()).rejects.toThrow('ECONNREFUSED');
});

test('a run whose set-up fails leaves no process and no file behind', async () => {
  const { folder, run } = await start({ RABBITMQ_SERVER: '/bin/false' });
  await run.shows(/did not start/);
  expect(await run.exit()).toBe(1);
  expect([processesWith(folder), readdirSync(folder)]).toEqual([[], []]);
});

test('a run whose broker crashes says so, and leaves no process, no file and no crash dump behind', async () => {
  const { folder, run, processes } = await start();
  const file = () => /RABBITMQ_PID_FILE=(\S+)/.exec(processes())?.[1] ?? '';
  const pid = await until('the pid', () => existsSync(file()) ? Number(readFileSync(file(), 'utf8')) : 0);
  process.kill(pid, 'SIGUSR1'); // at which Erlang crashes
  expect(await run.exit()).toBe(1);
  expect(run.stdout + run.stderr).toContain(`Crash dump is being written to: ${folder}`);
  await until('the end of what Erlang has started', () => processes() === '');
  expect(readdirSync(folder)).toEqual([]);
});
