// A private RabbitMQ: ports, folders, name and cookie of its own, and nothing left of it when it is stopped.
import { connect } from 'amqplib';
import type { ChildProcess, SpawnOptions } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { freePort, listens, newFolder, start, until } from './processes';

// Debian's /usr/sbin/rabbitmq-server changes user when root runs it, and could not write the folder then.
const PATH = (process.env.PATH ?? '').split(':');
const FOLDERS = ['/usr/lib/rabbitmq/bin', ...PATH, '/opt/homebrew/sbin', '/usr/local/sbin'];

/** The path of `rabbitmq-server` or one of its sisters, or undefined where there is none. */
export function findCommand(name: string): string | undefined {
  const named = process.env.RABBITMQ_SERVER;
  if (named && name === 'rabbitmq-server') return named;
  const folders = named ? [path.dirname(named), ...FOLDERS] : FOLDERS;
  return folders.map((folder) => path.join(folder, name)).find(existsSync);
}

/** Whether a broker lets us in at this URL. */
export async function answers(url: string): Promise<boolean> {
  const connection = await connect(url, { timeout: 5_000 }).catch(() => undefined);
  await connection?.close().catch(() => {});
  return connection !== undefined;
}

export interface BrokerOptions {
  port?: number;
  host?: string;
  /** Where the management plugin, if this is given, has its HTTP API and its UI. */
  managementPort?: number;
  /** Lines of rabbitmq.conf. */
  config?: string[];
  /** The Erlang name of the node. */
  node?: string;
  /** A broker that this one is to form a cluster with: they share the Erlang cookie and the port mapper. */
  peer?: Broker;
}

/** What it takes to reach a broker, also from another process than the one that started it. */
export interface BrokerDetails {
  port: number;
  host: string;
  managementPort: number | undefined;
  folder: string;
  env: Record<string, string>;
}

export class Broker {
  #process: ChildProcess | undefined;
  #fresh: string[] = [];
  output = '';
  ended: Promise<unknown> = Promise.resolve();
  readonly port: number;
  readonly host: string;
  readonly folder: string;
  readonly env: Record<string, string>;

  constructor(readonly details: BrokerDetails) {
    ({ port: this.port, host: this.host, folder: this.folder, env: this.env } = details);
  }

  static async start(options: BrokerOptions = {}): Promise<Broker> {
    const broker = await Broker.prepare(options);
    await broker.boot();
    return broker;
  }

  /** All but the node itself, which boot() starts. */
  static async prepare(options: BrokerOptions = {}): Promise<Broker> {
    const { port = await freePort(), host = '127.0.0.1', managementPort, config = [], peer } = options;
    const folder = newFolder('broker');
    const epmd = peer ? peer.env.ERL_EPMD_PORT! : String(await freePort());
    const env = {
      PATH: process.env.PATH ?? '',
      LANG: 'C.UTF-8',
      HOME: peer?.env.HOME ?? folder, // for the Erlang cookie
      ERL_CRASH_DUMP: path.join(folder, 'erl_crash.dump'),
      ERL_EPMD_ADDRESS: '127.0.0.1',
      ERL_EPMD_PORT: epmd,
      RABBITMQ_NODENAME: options.node ?? `rpc-${port}@localhost`,
      RABBITMQ_DIST_PORT: String(await freePort()),
      RABBITMQ_MNESIA_BASE: path.join(folder, 'data'),
      RABBITMQ_LOG_BASE: path.join(folder, 'log'),
      RABBITMQ_PID_FILE: path.join(folder, 'pid'),
      RABBITMQ_ENABLED_PLUGINS_FILE: path.join(folder, 'enabled_plugins'),
      RABBITMQ_CONFIG_FILE: path.join(folder, 'rabbitmq.conf'),
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-kernel inet_dist_use_interface {127,0,0,1}', // nobody from outside
      RUNNING_UNDER_SYSTEMD: '1', // the start script becomes the broker, so that signals reach it
    };
    const management = [`management.tcp.ip = ${host}`, `management.tcp.port = ${managementPort}`];
    const lines = [`listeners.tcp.1 = ${host}:${port}`, ...(managementPort ? management : []), ...config];
    writeFileSync(path.join(folder, 'enabled_plugins'), managementPort ? '[rabbitmq_management].\n' : '[].\n');
    writeFileSync(path.join(folder, 'rabbitmq.conf'), lines.map((line) => `${line}\n`).join(''));
    if (!peer) writeFileSync(path.join(folder, '.erlang.cookie'), randomUUID(), { mode: 0o400 });
    if (!peer) await startPortMapper(epmd, env);
    return new Broker({ port, host, managementPort, folder, env });
  }

  /** Starts the node, the first time or again after kill(), and waits until it answers. */
  async boot(): Promise<void> {
    const command = findCommand('rabbitmq-server');
    if (!command) throw new Error('There is no rabbitmq-server: run npm run setup');
    const child = start(command, [], { env: this.env, stdio: ['ignore', 'pipe', 'pipe'] });
    this.output = '';
    for (const stream of [child.stdout!, child.stderr!]) stream.on('data', (text) => (this.output += text));
    this.#process = child;
    this.ended = once(child, 'exit').catch((error: Error) => (this.output += error.message));
    await until('RabbitMQ', async () => {
      if (child.exitCode !== null) throw new Error(`${command} did not start:\n${this.output.slice(-2_000)}`);
      return answers(this.url());
    }, 120_000);
  }

  url(vhost = '', credentials = 'guest:guest'): string {
    return `amqp://${credentials}@${this.host}:${this.port}/${encodeURIComponent(vhost)}`;
  }

  signal(signal: NodeJS.Signals): void {
    this.#process!.kill(signal);
  }

  async kill(): Promise<void> {
    this.signal('SIGKILL');
    await this.ended;
  }

  /** Runs rabbitmqctl on it. */
  async ctl(...args: string[]): Promise<string> {
    const options: SpawnOptions = { env: this.env, stdio: ['ignore', 'pipe', 'pipe'] };
    const child = start(findCommand('rabbitmqctl')!, ['-q', ...args], options);
    const ended = once(child, 'exit');
    const [stdout, stderr, [status]] = await Promise.all([text(child.stdout!), text(child.stderr!), ended]);
    if (status !== 0) throw new Error(`rabbitmqctl ${args.join(' ')}: ${status}\n${stdout}${stderr}`);
    return stdout;
  }

  /** Asks its HTTP API, which starts no Erlang virtual machine each time as rabbitmqctl does. */
  async api(method: 'GET' | 'PUT' | 'DELETE', resource: string, body?: object): Promise<unknown> {
    const authorization = `Basic ${Buffer.from('guest:guest').toString('base64')}`;
    const response = await fetch(`http://${this.host}:${this.details.managementPort}/api/${resource}`, {
      method,
      headers: { authorization, connection: 'close', 'content-type': 'application/json' },
      ...(body && { body: JSON.stringify(body) }),
    });
    const answer = await response.text();
    if (!response.ok) throw new Error(`${method} ${resource}: ${response.status} ${answer}`);
    return answer && JSON.parse(answer);
  }

  /** Adds virtual hosts that the user guest may do all in. */
  async addVhost(...names: string[]): Promise<void> {
    if (this.details.managementPort) {
      for (const name of names) await this.api('PUT', `vhosts/${encodeURIComponent(name)}`);
      return;
    }
    const vhosts = names.map((name) => `<<"${name}">>`).join(',');
    await this.ctl('eval', `All = <<".*">>, [begin
      rabbit_vhost:add(Vhost, <<"guest">>),
      rabbit_auth_backend_internal:set_permissions(<<"guest">>, Vhost, All, All, All, <<"guest">>)
    end || Vhost <- [${vhosts}]].`);
  }

  /** A virtual host that nobody has used. */
  async freshVhost(): Promise<string> {
    if (this.#fresh.length === 0) {
      const count = this.details.managementPort ? 1 : 12; // rabbitmqctl takes its time for each call
      const names = Array.from({ length: count }, () => `test ${randomUUID()}`);
      await this.addVhost(...names);
      this.#fresh = names;
    }
    return this.#fresh.pop()!;
  }
}

/** Started here, before the node looks for one, it ends with the rest; started by the node, it would stay. */
async function startPortMapper(port: string, env: NodeJS.ProcessEnv): Promise<void> {
  start('epmd', ['-port', port, '-address', '127.0.0.1'], { stdio: 'ignore', env });
  await until('epmd', () => listens(Number(port)));
}
