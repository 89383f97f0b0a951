import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { Command, ROOT, listens, newFolder, until } from '../support/processes';

interface Process {
  pid: number;
  command: string;
}

/** What a process has started, what that has, and so on. */
function descendants(ancestor: number): Process[] {
  const output = execFileSync('ps', ['-A', '-ww', '-o', 'pid=,ppid=,args='], { encoding: 'utf8' });
  const rows = [...output.matchAll(/^ *(\d+) +(\d+) (.*)$/gm)];
  const below = (parent: number): Process[] => rows
    .filter(([, , ppid]) => Number(ppid) === parent)
    .flatMap(([, pid, , command]) => [{ pid: Number(pid), command: command! }, ...below(Number(pid))]);
  return below(ancestor);
}

function isRunning({ pid }: Process): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** The ports of the brokers whose folders are below this one, and of their port mappers. */
function portsBelow(folder: string, processes: Process[]): number[] {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  const config = files.filter((file) => file.endsWith('rabbitmq.conf'))
    .map((file) => readFileSync(path.join(folder, file), 'utf8')).join('');
  const commands = processes.map(({ command }) => command).filter((command) => command.startsWith('epmd')).join('\n');
  const ports = (config + commands).matchAll(/(?:-port |port = |listeners\S+ = \S+:)(\d+)/g);
  return [...ports].map(([, port]) => Number(port));
}

/** Runs a part of the tests, with its folder in a folder of ours. */
function runTests(env: NodeJS.ProcessEnv) {
  const folder = newFolder('tmp');
  const args = ['node_modules/vitest/vitest.mjs', 'run', 'faults/server'];
  return { folder, run: new Command(process.execPath, args, { RPC_RUN_FOLDER: undefined, TMPDIR: folder, ...env }) };
}

describe('a run of the tests leaves no process, no port and no file behind', () => {
  test('when it is killed half-way', async () => {
    const { folder, run } = runTests({});
    const atWork = () => descendants(run.child.pid!).some(({ command }) => command.includes('rpc_server.js'));
    await until('a server', () => atWork() || !run.running, 120_000);
    const processes = descendants(run.child.pid!);
    const ports = portsBelow(folder, processes);
    expect(processes.map(({ command }) => path.basename(command.split(' ')[0]!))).toContain('beam.smp');
    expect(await Promise.all(ports.map(listens))).toEqual([true, true, true, true]); // AMQP, amqps, management, epmd
    run.kill('SIGKILL');
    await until('the end of its processes', () => !processes.some(isRunning));
    await until('an empty folder', () => readdirSync(folder).length === 0);
    expect(await Promise.all(ports.map(listens))).toEqual([false, false, false, false]);
    expect(existsSync(path.join(ROOT, 'erl_crash.dump'))).toBe(false);
  });

  test('when its set-up fails', async () => {
    const { folder, run } = runTests({ RABBITMQ_SERVER: '/bin/false' });
    await run.shows(/did not start/, { deadline: 120_000 });
    expect(await run.exit()).toBe(1);
    expect(readdirSync(folder)).toEqual([]);
  });
});
