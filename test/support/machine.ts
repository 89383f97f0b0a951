// What tests, demo and benchmark need of the machine: processes and folders, of which none stays
// behind, free ports, and waiting.
import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

export const ROOT = path.join(__dirname, '../..');

// The reaper is a process that waits for its standard input to close, which it does however this
// process ends, also by SIGKILL. Then it takes away the folder in which each process that is started
// here has signed in, kills the process groups of all that did, and removes the other folders.
const REAPER = `cat; cd "$0" && mv pids ended && cd ended && for pid in *; do kill -9 "-$pid"; done
  for i in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$0" && break; sleep 0.2; done`;
const SIGN_IN = 'echo "$*" > "$0/pids/$$" && exec "$@"';
let folder = process.env.RPC_RUN_FOLDER; // vitest's workers use that of their main process
let reaper: ChildProcess | undefined;

/** Where all that is started here leaves its files. */
export function runFolder(): string {
  if (folder) return folder;
  folder = mkdtempSync(path.join(tmpdir(), 'rpc-'));
  mkdirSync(path.join(folder, 'pids'));
  const stdio: StdioOptions = ['pipe', 'ignore', 'ignore'];
  reaper = spawn('sh', ['-c', REAPER, folder], { detached: true, stdio });
  reaper.unref();
  (reaper.stdin as Socket).unref();
  return folder;
}

/** A new folder, which is removed with everything else. */
export const newFolder = (name: string) => mkdtempSync(path.join(runFolder(), `${name}-`));

/** Ends every process that was started here, and removes every folder. */
export async function cleanUp(): Promise<void> {
  if (!reaper || reaper.exitCode !== null) return;
  reaper.ref();
  reaper.stdin!.end();
  await once(reaper, 'exit');
}

// A port that nobody listens on, and that nobody else in this run is given. It is below those that the
// system gives to connections (from 32,768 on), which come and go while a broker starts, or is away.
export async function freePort(): Promise<number> {
  const port = 10_000 + Math.floor(Math.random() * 20_000);
  try {
    writeFileSync(path.join(runFolder(), `port-${port}`), '', { flag: 'wx' }); // nobody else's
    const server = createServer().listen(port, '127.0.0.1');
    await once(server, 'listening');
    await once(server.close(), 'close');
    return port;
  } catch {
    return freePort();
  }
}

/** Resolves to what `condition` returns, as soon as that is true. @throws Error after `deadline` ms */
export async function until<T>(what: string, condition: () => Promise<T> | T, deadline = 300_000) {
  for (const end = Date.now() + deadline; ; await pause(50)) {
    const result = await condition();
    if (result) return result;
    if (Date.now() > end) throw new Error(`${what}: not within ${deadline} ms`);
  }
}

/** A process in a group of its own, whose output is kept. What it leaves behind is ended with it. */
export class Command {
  stdout = '';
  stderr = '';
  readonly child: ChildProcess;
  #status: number | string | undefined;

  constructor(command: string, args: string[], env: NodeJS.ProcessEnv = process.env) {
    const signIn = ['-c', SIGN_IN, runFolder(), command, ...args];
    this.child = spawn('sh', signIn, { cwd: ROOT, env, stdio: 'pipe', detached: true });
    this.child.stdin!.end();
    for (const name of ['stdout', 'stderr'] as const) {
      this.child[name]!.setEncoding('utf8').on('data', (text: string) => (this[name] += text));
    }
    this.child.once('exit', () => {
      try {
        process.kill(-this.child.pid!, 'SIGKILL');
      } catch {} // all of the group has ended
      rmSync(path.join(runFolder(), 'pids', String(this.child.pid)), { force: true });
    });
    this.child.once('close', (status, signal) => (this.#status = status ?? signal!));
  }

  get running(): boolean {
    return this.#status === undefined;
  }

  get output(): string {
    return this.stdout + this.stderr;
  }

  /** How often `pattern` matches in all output so far. */
  readonly count = (pattern: RegExp) =>
    [...this.output.matchAll(new RegExp(pattern, `g${pattern.flags}`))].length;

  /** Waits for the `times`th match of `pattern` in all output so far and to come. */
  async shows(pattern: RegExp, { times = 1, deadline = 300_000 } = {}): Promise<void> {
    const isSeen = () => this.count(pattern) >= times;
    await until(`${pattern}`, () => isSeen() || !this.running, deadline).catch(() => {});
    if (!isSeen()) throw new Error(`no ${pattern} (${times}) in:\n${this.output}`);
  }

  /** Waits for the process to end. The status is the signal's name if that has ended it. */
  async end(deadline?: number) {
    await until(`the end of ${this.child.spawnargs.slice(4)}`, () => !this.running, deadline);
    return { status: this.#status!, stdout: this.stdout, stderr: this.stderr };
  }

  readonly exit = async () => (await this.end()).status;
  readonly kill = (signal: NodeJS.Signals) => this.child.kill(signal);

  /** Signals all that it has started, too, as Ctrl-C in a terminal does. */
  readonly interrupt = () => process.kill(-this.child.pid!, 'SIGINT');
}

/** Runs a script. However it ends (Ctrl-C, too), what it has started is gone before it is. */
export async function runScript(main: () => Promise<number>, statusOfSignal = 130): Promise<void> {
  const signalled = new Promise<number>((resolve) => {
    process.stdout.on('error', () => resolve(1)); // nobody reads it
    const onSignal = () => resolve(statusOfSignal);
    process.on('SIGINT', onSignal).on('SIGTERM', onSignal).on('SIGHUP', onSignal);
  });
  const status = await Promise.race([main(), signalled]).catch((error: Error) => {
    console.error(error.message);
    return 1;
  });
  await cleanUp();
  process.stdout.write('', () => process.exit(status));
}
