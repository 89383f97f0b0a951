// npm run test:cluster: three nodes behind one host name, a quorum queue, and calls in flight while each node in turn
// is killed and comes back. The name has its three addresses in this process and its children alone: they see another
// /etc/hosts, in a mount namespace of their own. Nothing on the machine is changed.
import { spawnSync } from 'node:child_process';
import { lookup } from 'node:dns/promises';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { RpcClient } from '../../src/rpc_client';
import { Broker } from '../support/broker';
import { Command, freePort, newFolder, runScript, until } from '../support/processes';
import { Calls, SERVER, page, table } from './shared';

const HOST = 'rabbitmq.test';
const ADDRESSES = ['127.0.0.11', '127.0.0.12', '127.0.0.13'];
const NODES = ADDRESSES.map((_, i) => `rpc-${i + 1}@localhost`);
const VHOST = 'cluster';
const IN_FLIGHT = 16;
const CALLS_WITHOUT_A_NODE = 1_000;

/** Runs this script again where HOST has its addresses, and returns its exit status. */
function runWithHosts(): number {
  const hosts = path.join(newFolder('hosts'), 'hosts');
  const lines = ADDRESSES.map((address) => `${address} ${HOST}\n`);
  writeFileSync(hosts, readFileSync('/etc/hosts', 'utf8') + lines.join(''));
  const namespace = process.getuid!() === 0 ? ['--mount'] : ['--mount', '--map-root-user'];
  const command = 'mount --bind "$0" /etc/hosts && exec "$@"';
  const args = [...namespace, 'sh', '-c', command, hosts, process.execPath, '-r', 'ts-node/register', __filename];
  const { status, error } = spawnSync('unshare', args, { stdio: 'inherit' });
  if (error) throw new Error(`test:cluster needs Linux with unshare (util-linux): ${error.message}`);
  return status ?? 1;
}

async function startCluster(): Promise<Broker[]> {
  const port = await freePort();
  const config = [
    'cluster_formation.peer_discovery_backend = classic_config',
    ...NODES.map((node, i) => `cluster_formation.classic_config.nodes.${i + 1} = ${node}`),
  ];
  const brokers: Broker[] = [];
  for (const [i, node] of NODES.entries()) {
    const peer = brokers[0] && { peer: brokers[0] };
    brokers.push(await Broker.prepare({ port, host: ADDRESSES[i]!, node, config, ...peer }));
  }
  await Promise.all(brokers.map((broker) => broker.boot())); // together, since RabbitMQ 4 waits for the others
  await brokers[0]!.ctl('add_vhost', VHOST, '--default-queue-type', 'quorum');
  await brokers[0]!.ctl('set_permissions', '-p', VHOST, 'guest', '.*', '.*', '.*');
  return brokers;
}

/** rpc_queue as a node sees it. */
async function queueAt(broker: Broker): Promise<{ type?: string; leader?: string; online?: string[] }> {
  const columns = ['type', 'leader', 'online'];
  const rows = await broker.ctl('list_queues', '-p', VHOST, '--formatter', 'json', ...columns).catch(() => '[]');
  return JSON.parse(rows).find(({ type }: { type: string }) => type === 'quorum') ?? {};
}

/** Kills a node, waits for calls without it and for a leader, starts it again. Returns whether the leader has moved. */
async function killAndRestart(broker: Broker, node: string, other: Broker, calls: Calls): Promise<boolean> {
  const { leader } = await queueAt(other);
  console.error(`killing ${node}; the leader is ${leader}`);
  await broker.kill();
  const enough = calls.outcomes.right! + CALLS_WITHOUT_A_NODE;
  await until(`${CALLS_WITHOUT_A_NODE} calls without ${node}`, () => calls.outcomes.right! >= enough, 60_000);
  const now = await until('a leader', async () => (await queueAt(other)).leader);
  await broker.boot();
  await until('three members', async () => (await queueAt(other)).online?.length === NODES.length, 60_000);
  return now !== leader;
}

async function main(): Promise<number> {
  if (!(await lookup(HOST).catch(() => undefined))) return runWithHosts();
  const brokers = await startCluster();
  const url = `amqp://${HOST}:${brokers[0]!.details.port}/${VHOST}`;
  const servers = NODES.map(() => new Command('node', [...SERVER, '--delay', '5'], { ...process.env, AMQP_URL: url }));
  await Promise.all(servers.map((server) => server.shows(/Awaiting/)));
  await until('a quorum queue', async () => (await queueAt(brokers[0]!)).online?.length === NODES.length);
  const client = await RpcClient.connect({ url });
  const calls = new Calls(30_000);
  const calling = calls.keepCalling(client, IN_FLIGHT);
  let moves = 0;
  for (const [i, broker] of brokers.entries()) {
    if (await killAndRestart(broker, NODES[i]!, brokers[(i + 1) % brokers.length]!, calls)) moves++;
  }
  calls.total = 0;
  await calling;
  const rows = [...calls.rows, ['node kills', brokers.length], ['leader moves', moves]];
  console.log(await page('npm run test:cluster', brokers[0]!, table(['calls', calls.done], rows)));
  return calls.allRight && moves > 0 ? 0 : 1;
}

void runScript(main);
