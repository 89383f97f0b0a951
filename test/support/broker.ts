// A private RabbitMQ: ports, folders, name and cookie of its own, and nothing left of it when it is stopped.
import { connect } from 'amqplib';
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Command, freePort, newFolder, until } from './processes';

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
  const connection = await connect(url, { timeout: 60_000 }).catch(() => undefined);
  await connection?.close().catch(() => {});
  return connection !== undefined;
}

export interface BrokerOptions {
  port?: number;
  host?: string;
  managementPort?: number; // of the management plugin's HTTP API and UI; without it there are neither
  config?: string[]; // lines of rabbitmq.conf
  node?: string; // Erlang name
  peer?: Broker; // that this one is to form a cluster with: they share the Erlang cookie and the port mapper
}

export class Broker {
  node!: Command; // the node's process, the first one or the one that boot() has started last

  /** What it takes to reach it, also from a thread that has not started it; `tls`: for amqps, with a file of the CA. */
  constructor(readonly details: Required<Pick<BrokerOptions, 'port' | 'host'>> & {
    managementPort: number | undefined; tls?: { port: number; ca: string }; env: Record<string, string>;
  }) {}

  static readonly start = async (options?: BrokerOptions) => (await Broker.prepare(options)).boot();

  /** One for tests, which need its HTTP API but not the statistics that it would spend time on. */
  static async startForTests(config: string[] = []): Promise<Broker> {
    const own = ['management_agent.disable_metrics_collector = true', 'handshake_timeout = 600000', ...config];
    return Broker.start({ managementPort: await freePort(), config: own });
  }

  /** All but the node itself, which boot() starts. */
  static async prepare(options: BrokerOptions = {}): Promise<Broker> {
    const { port = await freePort(), host = '127.0.0.1', managementPort, config = [], peer } = options;
    const folder = newFolder('broker');
    const epmd = peer ? peer.details.env.ERL_EPMD_PORT! : String(await freePort());
    const env = {
      PATH: process.env.PATH ?? '',
      LANG: 'C.UTF-8',
      HOME: peer?.details.env.HOME ?? folder, // for the Erlang cookie
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
    // The port mapper: started here, before the node looks for one, it ends with the rest; else it would stay.
    if (!peer) await new Command('epmd', ['-d', '-port', epmd, '-address', '127.0.0.1'], env).shows(/epmd running/);
    return new Broker({ port, host, managementPort, env });
  }

  /** Starts the node, the first time or again after kill(), and waits until it answers. */
  async boot(): Promise<this> {
    const command = findCommand('rabbitmq-server');
    if (!command) throw new Error('There is no rabbitmq-server: run npm run setup');
    this.node = new Command(command, [], this.details.env);
    await until('RabbitMQ', async () => {
      const { running, stdout, stderr } = this.node;
      if (!running) throw new Error(`${command} did not start:\n${(stdout + stderr).slice(-2_000)}`);
      return answers(this.url());
    });
    return this;
  }

  url(vhost = '', credentials = 'guest:guest'): string {
    return `amqp://${credentials}@${this.details.host}:${this.details.port}/${encodeURIComponent(vhost)}`;
  }

  readonly kill = () => (this.node.kill('SIGKILL'), this.node.exit());

  /** Runs rabbitmqctl on it. */
  async ctl(...args: string[]): Promise<string> {
    const command = new Command(findCommand('rabbitmqctl')!, ['-q', ...args], this.details.env);
    const { status, stdout, stderr } = await command.end();
    if (status !== 0) throw new Error(`rabbitmqctl ${args.join(' ')}: ${status}\n${stdout}${stderr}`);
    return stdout;
  }

  /** Deletes the clients' reply queues. They are their connections' own: only the broker itself can. */
  async deleteReplyQueues(vhost = '/'): Promise<void> {
    await this.ctl('eval', `[rabbit_amqqueue:delete(Q, false, false, <<"test">>) ||
      Q <- rabbit_amqqueue:list(<<"${vhost}">>), {_, _, queue, <<"amq.gen-", _/binary>>} <- [amqqueue:get_name(Q)]].`);
  }

  /** Asks its HTTP API, which starts no Erlang virtual machine each time as rabbitmqctl does. */
  async api(method: 'GET' | 'PUT', resource: string, body: object = {}): Promise<unknown> {
    const authorization = `Basic ${Buffer.from('guest:guest').toString('base64')}`;
    const headers = { authorization, connection: 'close', 'content-type': 'application/json' };
    const init = method === 'GET' ? { headers } : { method, headers, body: JSON.stringify(body) };
    const response = await fetch(`http://${this.details.host}:${this.details.managementPort}/api/${resource}`, init);
    const answer = await response.text();
    if (!response.ok) throw new Error(`${method} ${resource}: ${response.status} ${answer}`);
    return answer && JSON.parse(answer);
  }

  /** Adds a virtual host, and returns its name. */
  async addVhost(): Promise<string> {
    const name = `test ${randomUUID()}`;
    await this.api('PUT', `vhosts/${encodeURIComponent(name)}`);
    return name;
  }

  /** What it has written into its log so far: it does that in order, but seconds later. */
  get log(): string {
    const folder = this.details.env.RABBITMQ_LOG_BASE!;
    return readdirSync(folder).map((file) => readFileSync(path.join(folder, file), 'utf8')).join('');
  }
}
