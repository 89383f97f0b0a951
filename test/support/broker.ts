// A private RabbitMQ: its ports, folders, name and cookie are its own, and nothing of it stays behind.
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Command, freePort, newFolder } from './machine';

// Debian's /usr/sbin/rabbitmq-server changes user when root runs it, and could not write the folder.
const { PATH = '', RABBITMQ_SERVER } = process.env;
const USUAL = `/usr/lib/rabbitmq/bin:${PATH}:/opt/homebrew/sbin:/usr/local/sbin`;
const FOLDERS = RABBITMQ_SERVER ? [path.dirname(RABBITMQ_SERVER)] : USUAL.split(':');

/** The path of rabbitmq-server or one of its sisters, or undefined where there is none. */
export const findCommand = (name: string): string | undefined =>
  FOLDERS.map((folder) => path.join(folder, name)).find(existsSync);

interface BrokerOptions {
  host?: string;
  port?: number;
  managementPort?: number; // of the management plugin; without it, the plugin is off
  config?: string[]; // lines of rabbitmq.conf
  node?: string; // its Erlang name
  peer?: Broker | undefined; // of the same cluster: its Erlang cookie and port mapper are used
}

/** What it takes to reach a broker, also from a thread that has not started it. */
interface BrokerDetails {
  host: string;
  port: number;
  managementPort: number | undefined;
  tls?: { port: number; ca: string }; // for amqps, with a file of the CA
  env: Record<string, string>; // of the node, and of rabbitmqctl for it
}

export class Broker {
  node!: Command; // the process that boot() has started last
  readonly details: BrokerDetails;

  constructor(details: BrokerDetails) {
    this.details = details;
  }

  static readonly start = async (options?: BrokerOptions) => (await Broker.prepare(options)).boot();

  /** One for tests, which need its HTTP API, but not its statistics. */
  static async startForTests(config: string[] = []): Promise<Broker> {
    const quick = [
      'management_agent.disable_metrics_collector = true',
      'handshake_timeout = 600000',
    ];
    return Broker.start({ managementPort: await freePort(), config: [...quick, ...config] });
  }

  /** All but the node itself, which boot() starts. */
  static async prepare(options: BrokerOptions = {}): Promise<Broker> {
    const { host = '127.0.0.1', port = await freePort(), managementPort, config = [] } = options;
    const { peer, node = `rpc-${port}@localhost` } = options;
    const folder = newFolder('broker');
    const env = await environment(folder, node, peer);
    const management = [`management.tcp.ip = ${host}`, `management.tcp.port = ${managementPort}`];
    const lines = [`listeners.tcp.1 = ${host}:${port}`, ...(managementPort ? management : [])];
    writeFileSync(env.RABBITMQ_CONFIG_FILE, [...lines, ...config, ''].join('\n'));
    const plugins = managementPort ? '[rabbitmq_management].\n' : '[].\n';
    writeFileSync(env.RABBITMQ_ENABLED_PLUGINS_FILE, plugins);
    if (!peer) {
      writeFileSync(path.join(folder, '.erlang.cookie'), randomUUID(), { mode: 0o400 });
      // Erlang's port mapper: a node that found none would start one that stays when the node ends.
      await new Command('epmd', ['-d'], env).shows(/epmd running/);
    }
    return new Broker({ host, port, managementPort, env });
  }

  /** Starts the node, for the first time or again after kill(), and waits until it is ready. */
  async boot(): Promise<this> {
    const command = findCommand('rabbitmq-server');
    if (!command) throw new Error('There is no rabbitmq-server: run npm run setup');
    this.node = new Command(command, [], this.details.env);
    await this.node.shows(/completed with \d+ plugins/);
    return this;
  }

  url(vhost = '', credentials = 'guest:guest'): string {
    const { host, port } = this.details;
    return `amqp://${credentials}@${host}:${port}/${encodeURIComponent(vhost)}`;
  }

  async kill(): Promise<void> {
    this.node.kill('SIGKILL');
    await this.node.exit();
  }

  async ctl(...args: string[]): Promise<string> {
    const command = new Command(findCommand('rabbitmqctl')!, ['-q', ...args], this.details.env);
    const { status, stdout } = await command.end();
    if (status !== 0) throw new Error(`rabbitmqctl ${args}: ${status}\n${command.output}`);
    return stdout;
  }

  /** Asks its HTTP API, which is quicker than rabbitmqctl. */
  async api(method: 'GET' | 'PUT', resource: string, body?: object): Promise<unknown> {
    const authorization = `Basic ${Buffer.from('guest:guest').toString('base64')}`;
    const headers = { authorization, connection: 'close', 'content-type': 'application/json' };
    const url = `http://${this.details.host}:${this.details.managementPort}/api/${resource}`;
    const request = { method, headers, body: body ? JSON.stringify(body) : null };
    const response = await fetch(url, request);
    const answer = await response.text();
    if (!response.ok) throw new Error(`${method} ${resource}: ${response.status} ${answer}`);
    return answer && JSON.parse(answer);
  }

  /** What it has written into its log so far: in order, but seconds later. */
  get log(): string {
    const { RABBITMQ_LOG_BASE, RABBITMQ_NODENAME } = this.details.env;
    return readFileSync(`${RABBITMQ_LOG_BASE}/${RABBITMQ_NODENAME}.log`, 'utf8');
  }
}

async function environment(folder: string, node: string, peer?: Broker) {
  return {
    PATH,
    LANG: 'C.UTF-8',
    HOME: peer?.details.env.HOME ?? folder, // for the Erlang cookie
    ERL_CRASH_DUMP: path.join(folder, 'erl_crash.dump'),
    ERL_EPMD_ADDRESS: '127.0.0.1',
    ERL_EPMD_PORT: peer?.details.env.ERL_EPMD_PORT ?? String(await freePort()),
    RABBITMQ_NODENAME: node,
    RABBITMQ_DIST_PORT: String(await freePort()),
    RABBITMQ_MNESIA_BASE: folder,
    RABBITMQ_LOG_BASE: folder,
    RABBITMQ_ENABLED_PLUGINS_FILE: path.join(folder, 'enabled_plugins'),
    RABBITMQ_CONFIG_FILE: path.join(folder, 'rabbitmq.conf'),
    // Nobody from outside.
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-kernel inet_dist_use_interface {127,0,0,1}',
    RUNNING_UNDER_SYSTEMD: '1', // the start script becomes the broker, so that signals reach it
  };
}
