// npm run test:cluster: three nodes behind one host name, a quorum queue, and calls in flight while each node in turn
// is killed and comes back. The name has its three addresses in this process and its children alone: they see another
// /etc/hosts, in a mount namespace of their own. Nothing on the machine is changed.
import { spawnSync } from 'node:child_process';
import { lookup } from 'node:dns/promises';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { RpcClient } from '../../src/rpc_client';
import { Broker } from '../support/broker';
import { freePort, newFolder, runScript, until } from '../support/processes';
import { Calls, addVhost, page, startServers } from './shared';

const HOST = 'rabbitmq.test';
const ADDRESSES = ['127.0.0.11', '127.0.0.12', '127.0.0.13'];
const NODES = ADDRESSES.map((_, i) => `rpc-${i + 1}@localhost`);
const VHOST = 'cluster';

/** Runs this script again where HOST has its addresses, and returns its exit status. */
function runWithHosts(): number {
  const hosts = path.join(newFolder('hosts'), 'hosts');
  writeFileSync(hosts, `${readFileSync('/etc/hosts', 'utf8')}${ADDRESSES.map((ip) => `${ip} ${HOST}\n`).join('')}`);
  const namespace = process.getuid!() === 0 ? ['--mount'] : ['--mount', '--map-root-user'];
  const command = 'mount --bind "$0" /etc/hosts && exec "$@"';
  const args = [...namespace, 'sh', '-c', command, hosts, process.execPath, '-r', 'ts-node/register', __filename];
  const { status, error } = spawnSync('unshare', args, { stdio: 'inherit' });
  if (error) throw new Error(`test:cluster needs Linux with unshare (util-linux): ${error.message}`);
  return status ?? 1;
}

async function startCluster(): Promise<Broker[]> {
  const port = await freePort();
  const nodes = NODES.map((node, i) => `cluster_formation.classic_config.nodes.${i + 1} = ${node}`);
  const config = ['cluster_formation.peer_discovery_backend = classic_config', ...nodes];
  const brokers: Broker[] = [];
  for (const [i, node] of NODES.entries()) {
    const peer = brokers[0] && { peer: brokers[0] };
    brokers.push(await Broker.prepare({ port, host: ADDRESSES[i]!, node, config, ...peer }));
  }
  await Promise.all(brokers.map((broker) => broker.boot())); // together, since RabbitMQ 4 waits for the others
  await addVhost(brokers[0]!, VHOST, 'quorum');
  return brokers;
}

/** rpc_queue as a node sees it. */
async function queueAt(broker: Broker): Promise<{ type?: string; leader?: string; online?: string[] }> {
  const list = ['list_queues', '-p', VHOST, '--formatter', 'json', 'type', 'leader', 'online'];
  const queues = JSON.parse(await broker.ctl(...list).catch(() => '[]'));
  return queues.find(({ type }: { type: string }) => type === 'quorum') ?? {};
}

async function main(): Promise<number> {
  if (!(await lookup(HOST).catch(() => undefined))) return runWithHosts();
  const brokers = await startCluster();
  const url = `amqp://${HOST}:${brokers[0]!.details.port}/${VHOST}`;
  await startServers(url, NODES.length, ['--delay', '5']);
  const hasAll = (node: Broker) => until('members', async () => (await queueAt(node)).online?.length === 3, 60_000);
  await hasAll(brokers[0]!);
  const client = await RpcClient.connect({ url });
  const calls = new Calls([client], 16, 30_000);
  let moves = 0; // of the queue's leader
  for (const [i, broker] of brokers.entries()) {
    const other = brokers[(i + 1) % brokers.length]!;
    const { leader } = await queueAt(other);
    console.error(`killing ${NODES[i]}; the leader is ${leader}`);
    await broker.kill();
    const enough = calls.outcomes.right! + 1_000;
    await until('calls without it', () => calls.outcomes.right! >= enough, 60_000);
    if ((await until('a leader', async () => (await queueAt(other)).leader)) !== leader) moves++;
    await broker.boot();
    await hasAll(other);
  }
  await calls.end();
  const kills = ['node kills', brokers.length];
  console.log(await page('npm run test:cluster', brokers[0]!, calls.table(kills, ['leader moves', moves])));
  return calls.allRight() && moves > 0 ? 0 : 1;
}

void runScript(main);
