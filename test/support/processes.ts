// Processes that tests, demo and benchmark start: their output line by line, and the promise that none stays behind.
import { spawn, type ChildProcess, type SpawnOptions } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
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
export function newFolder(name: string): string {
  return mkdtempSync(path.join(runFolder(), `${name}-`));
}

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
export function start(command: string, args: string[], options: SpawnOptions = {}): ChildProcess {
  const folder = runFolder();
  const child = spawn('sh', ['-c', SIGN_IN, folder, command, ...args], { cwd: ROOT, ...options, detached: true });
  child.once('exit', () => {
    killGroup(child);
    rmSync(path.join(folder, 'pids', String(child.pid)), { force: true });
  });
  return child;
}

/** Ends a process and all that it has started. */
export function killGroup({ pid }: ChildProcess): void {
  try {
    process.kill(-pid!, 'SIGKILL');
  } catch {
    // It has ended.
  }
}

/** Waits until `condition` returns something true, and returns that. Fails after `deadline` ms. */
export async function until<T>(what: string, condition: () => Promise<T> | T, deadline = 30_000) {
  const end = Date.now() + deadline;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (Date.now() > end) throw new Error(`${what}: not within ${deadline} ms`);
    await pause(20);
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
    server.close();
    await once(server, 'close');
    writeFileSync(path.join(runFolder(), `port-${port}`), '', { flag: 'wx' });
    return port;
  } catch {
    return freePort();
  }
}

export async function listens(port: number): Promise<boolean> {
  const socket = createConnection(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

/** Random numbers from 0 to 1, always the same for a seed (mulberry32). */
export function generator(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A Markdown table. */
export function table(head: string[], rows: (string | number)[][]): string {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** A command whose output is read, such as one of the two scripts. */
export class Command {
  stdout = '';
  stderr = '';
  readonly child: ChildProcess;
  readonly ended: Promise<{ status: number | null; signal: string | null }>;
  #exit: { status: number | null; signal: string | null } | undefined;

  constructor(command: string, args: string[], env: NodeJS.ProcessEnv = {}, stdin: 'ignore' | 'pipe' = 'ignore') {
    this.child = start(command, args, { env: { ...process.env, ...env }, stdio: [stdin, 'pipe', 'pipe'] });
    this.child.stdout!.setEncoding('utf8').on('data', (text: string) => (this.stdout += text));
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => (this.stderr += text));
    this.ended = new Promise((resolve) => {
      this.child.once('close', (status, signal) => resolve((this.#exit = { status, signal })));
    });
  }

  get running(): boolean {
    return this.#exit === undefined;
  }

  /** Waits for the `count`th match of `pattern` in all output so far and to come. */
  async shows(pattern: RegExp, { count = 1, deadline = 30_000 } = {}): Promise<void> {
    const all = new RegExp(pattern.source, `g${pattern.flags.replace('g', '')}`);
    const seen = () => ((this.stdout + this.stderr).match(all)?.length ?? 0) >= count;
    await until(`${pattern}`, () => seen() || !this.running, deadline).catch(() => {});
    if (!seen()) throw new Error(`no ${pattern} (${count}) in:\n${this.stdout}${this.stderr}`);
  }

  /** Waits for the process to end, and returns its exit status, or the signal's name. */
  async exit(deadline = 30_000): Promise<number | string | null> {
    await until('exit', () => !this.running, deadline).catch(() => {
      throw new Error(`still running after ${deadline} ms:\n${this.stdout}${this.stderr}`);
    });
    return this.#exit!.status ?? this.#exit!.signal;
  }

  /** Signals the process alone, as `kill` does. */
  kill(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }
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
