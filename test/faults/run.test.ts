import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { Command, ROOT, newFolder, until } from '../support/processes';

/** Runs a part of the tests, with its folder in a folder of ours. */
function runTests(env: NodeJS.ProcessEnv) {
  const folder = newFolder('tmp');
  const args = ['node_modules/vitest/vitest.mjs', 'run', 'faults/server'];
  const run = new Command(process.execPath, args, {
    ...process.env, RPC_RUN_FOLDER: undefined, TMPDIR: folder, NODE_DISABLE_COMPILE_CACHE: '1', ...env, // as npm test
  });
  /** The programs of all processes that have this folder in their environment or arguments, but for the run itself. */
  const programs = () => {
    const processes = execFileSync('ps', ['axeww', '-o', 'pid=,args='], { encoding: 'utf8', maxBuffer: 2 ** 26 });
    const started = processes.split('\n').filter((line) => line.includes(folder) && parseInt(line) !== run.child.pid);
    return started.map((line) => path.basename(line.trim().split(/\s+/)[1]!) + (/rpc_\w+\.js/.exec(line) ?? ''));
  };
  return { folder, run, programs };
}

test('a run of the tests that is killed leaves no process, and so no port, and no file behind', async () => {
  const { folder, run, programs } = runTests({});
  await until('a server', () => programs().includes('noderpc_server.js') || !run.running, 120_000);
  expect(programs()).toEqual(expect.arrayContaining(['beam.smp', 'epmd', 'noderpc_server.js']));
  run.kill('SIGKILL');
  await until('the end of all processes', () => programs().length === 0);
  await until('an empty folder', () => readdirSync(folder).length === 0);
  expect(existsSync(path.join(ROOT, 'erl_crash.dump'))).toBe(false);
});

test('a run of the tests whose set-up fails leaves no process and no file behind', async () => {
  const { folder, run, programs } = runTests({ RABBITMQ_SERVER: '/bin/false' });
  await run.shows(/did not start/, { deadline: 120_000 });
  expect(await run.exit()).toBe(1);
  expect(programs()).toEqual([]);
  expect(readdirSync(folder)).toEqual([]);
});
