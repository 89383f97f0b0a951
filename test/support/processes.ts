// Processes that tests, demo and benchmark start: their output line by line, and the promise that none stays behind.
import { execFileSync, spawn, type ChildProcess, type SpawnOptions } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

export const ROOT = path.join(__dirname, '../..');

// However the process that made the run's folder ends, also by SIGKILL: its end of the reaper's standard input is
// closed by then. The reaper, a process of its own, takes away the folder that a new process has to sign in to, kills
// the process groups of all that did, and removes the rest.
const REAPER = `cat; cd "$0" && mv pids ended && cd ended && for pid in *; do kill -9 "-$pid"; done
  for i in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$0" && break; sleep 0.2; done`;
const SIGN_IN = 'echo "$*" > "$0/pids/$$" && exec "$@"';
let reaper: { folder: string; process: ChildProcess } | undefined;

/** Where all that is started here leaves its files. Vitest's workers use the one of their main process. */
export function runFolder(): string {
  if (process.env.RPC_RUN_FOLDER) return process.env.RPC_RUN_FOLDER;
  if (!reaper) {
    const folder = mkdtempSync(path.join(tmpdir(), 'rpc-'));
    mkdirSync(path.join(folder, 'pids'));
    const child = spawn('sh', ['-c', REAPER, folder], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
    child.unref();
    (child.stdin as Socket).unref();
    reaper = { folder, process: child };
  }
  return reaper.folder;
}

/** A new folder, which is removed with everything else. */
export const newFolder = (name: string) => mkdtempSync(path.join(runFolder(), `${name}-`));

/** Ends every process that was started here, and removes every folder. Safe to call again. */
export async function cleanUp(): Promise<void> {
  if (!reaper) return;
  const { process: child } = reaper;
  reaper = undefined;
  child.ref();
  child.stdin!.end();
  await once(child, 'exit');
}

/** A process in a group of its own: Ctrl-C reaches only who started it, and what it leaves behind is ended with it. */
function start(command: string, args: string[], env: NodeJS.ProcessEnv): ChildProcess {
  const folder = runFolder();
  const options: SpawnOptions = { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'], detached: true };
  const child = spawn('sh', ['-c', SIGN_IN, folder, command, ...args], options);
  return child.once('exit', () => {
    try {
      process.kill(-child.pid!, 'SIGKILL'); // what it has started
    } catch {} // and what has ended with it
    rmSync(path.join(folder, 'pids', String(child.pid)), { force: true });
  });
}

/** The processes that have this text in their arguments or environment, with both. */
export const processesWith = (text: string) =>
  execFileSync('ps', ['axeww', '-o', 'args='], { encoding: 'utf8', maxBuffer: 2 ** 26 })
    .split('\n').filter((line) => line.includes(text));

/** Waits until `condition` returns something true, and returns that. Fails after `deadline` ms, and names `what`. */
export async function until<T>(what: string, condition: () => Promise<T> | T, deadline = 300_000, more = () => '') {
  for (const end = Date.now() + deadline; ; await pause(50)) {
    const result = await condition();
    if (result) return result;
    if (Date.now() > end) throw new Error(`${what}: not within ${deadline} ms${more()}`);
  }
}

/**
 * A port that nobody listens on, and that is given to nobody else in this run. It is none of those that the system
 * gives to connections (from 32,768 on), which come and go while a broker starts, or is away.
 */
export async function freePort(): Promise<number> {
  const port = 10_000 + Math.floor(Math.random() * 20_000);
  try {
    const server = createServer().listen(port, '127.0.0.1');
    await once(server, 'listening');
    await once(server.close(), 'close');
    writeFileSync(path.join(runFolder(), `port-${port}`), '', { flag: 'wx' });
    return port;
  } catch {
    return freePort();
  }
}

/** Random numbers from 0 to 1, always the same for a seed (Park and Miller's minimal standard). */
export const generator = (seed: number, state = 1 + (seed % 2_147_483_646)) => () =>
  (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;

/** How often `pattern` matches. */
export const count = (text: string, pattern: RegExp): number =>
  [...text.matchAll(new RegExp(pattern, `g${pattern.flags}`))].length;

/** A command whose output is read, such as one of the two scripts. */
export class Command {
  stdout = '';
  stderr = '';
  readonly child: ChildProcess;
  #exit: number | string | undefined;

  constructor(command: string, args: string[], env: NodeJS.ProcessEnv = process.env) {
    this.child = start(command, args, env);
    for (const name of ['stdout', 'stderr'] as const) {
      this.child[name]!.setEncoding('utf8').on('data', (text: string) => (this[name] += text));
    }
    this.child.once('close', (status, signal) => (this.#exit = status ?? signal!));
  }

  get running(): boolean {
    return this.#exit === undefined;
  }

  /** How often `pattern` matches in all output so far. */
  readonly count = (pattern: RegExp) => count(this.stdout + this.stderr, pattern);

  /** Waits for the `times`th match of `pattern` in all output so far and to come. */
  async shows(pattern: RegExp, { times = 1, deadline = 300_000 } = {}): Promise<void> {
    const seen = () => this.count(pattern) >= times;
    await until(`${pattern}`, () => seen() || !this.running, deadline).catch(() => {});
    if (!seen()) throw new Error(`no ${pattern} (${times}) in:\n${this.stdout}${this.stderr}`);
  }

  /** Waits for the process to end, and returns its exit status (or the signal's name) and its output. */
  async end(deadline?: number): Promise<{ status: number | string; stdout: string; stderr: string }> {
    await until('exit', () => !this.running, deadline, () => `:\n${this.stdout}${this.stderr}`);
    return { status: this.#exit!, stdout: this.stdout, stderr: this.stderr };
  }

  readonly exit = async (deadline?: number) => (await this.end(deadline)).status;

  /** Signals the process alone, as `kill` does. */
  readonly kill = (signal: NodeJS.Signals) => this.child.kill(signal);
}

/**
 * Runs the main function of a script that starts processes. However it ends (Ctrl-C included), they are gone before
 * it is; its exit status is what `main` resolves to.
 */
export async function runScript(main: () => Promise<number>, statusOfSignal = 130): Promise<void> {
  const signalled = new Promise<number>((resolve) => {
    for (const stream of [process.stdout, process.stderr]) stream.on('error', () => resolve(1)); // nobody reads it
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => resolve(statusOfSignal));
  });
  const status = await Promise.race([main(), signalled]).catch((error: Error) => {
    console.error(error.message);
    return 1;
  });
  await cleanUp();
  process.stdout.write('', () => process.exit(status));
}
