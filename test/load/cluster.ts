// npm run test:cluster: calls to a quorum queue, while each of its three nodes is killed in turn. All
// have one host name, in the /etc/hosts that only this process and its children see.
import { spawnSync } from 'node:child_process';
import { lookup } from 'node:dns/promises';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { QUEUE } from '../../src/connection';
import { RpcClient } from '../../src/rpc_client';
import { Broker } from '../support/broker';
import { freePort, newFolder, runScript, until } from '../support/machine';
import { Calls, addVhost, report, startServer, untilServed, versionOf } from './shared';

const HOST = 'rabbitmq.test';
const ADDRESSES = ['127.0.0.11', '127.0.0.12', '127.0.0.13'];
const NODES = ['rpc-1@localhost', 'rpc-2@localhost', 'rpc-3@localhost'];
const VHOST = 'cluster';

/** Runs this script again where HOST has its addresses. @returns its exit status */
function runWithHosts(): number {
  const hosts = path.join(newFolder('hosts'), 'hosts');
  const lines = [readFileSync('/etc/hosts', 'utf8'), ...ADDRESSES.map((ip) => `${ip} ${HOST}`), ''];
  writeFileSync(hosts, lines.join('\n'));
  const namespace = process.getuid!() === 0 ? ['--mount'] : ['--mount', '--map-root-user'];
  const command = ['sh', '-c', 'mount --bind "$0" /etc/hosts && exec "$@"', hosts];
  const script = [process.execPath, '-r', 'ts-node/register', __filename];
  const options = { stdio: 'inherit' } as const;
  const { status, error } = spawnSync('unshare', [...namespace, ...command, ...script], options);
  if (error)
    throw new Error(`test:cluster needs Linux with unshare (util-linux): ${error.message}`);
  return status ?? 1;
}

async function startCluster(): Promise<Broker[]> {
  const port = await freePort();
  const config = NODES.map((node, i) => `cluster_formation.classic_config.nodes.${i} = ${node}`);
  config.push('cluster_formation.peer_discovery_backend = classic_config');
  const brokers: Broker[] = [];
  for (const [i, node] of NODES.entries()) {
    const options = { host: ADDRESSES[i]!, port, node, config, peer: brokers[0] };
    brokers.push(await Broker.prepare(options));
  }
  await Promise.all(brokers.map((broker) => broker.boot())); // at once: each waits for the others
  if (Number.parseInt(await versionOf(brokers[0]!)) >= 4) return brokers;
  const reason = 'RabbitMQ 3.10 drops requests of a quorum queue without a leader';
  throw new Error(`test:cluster needs RabbitMQ 4: ${reason}`);
}

/** Waits until all nodes have rpc_queue, as this one sees it. */
async function untilReplicated(broker: Broker): Promise<void> {
  const list = ['list_queues', '-p', VHOST, '--formatter', 'json', 'name', 'online'];
  await until('rpc_queue on all nodes', async () => {
    const queues: { name: string; online: string[] }[] = JSON.parse(await broker.ctl(...list));
    return queues.some(({ name, online }) => name === QUEUE && online.length === NODES.length);
  });
}

async function main(): Promise<number> {
  if (!(await lookup(HOST).catch(() => undefined))) return runWithHosts();
  const brokers = await startCluster();
  await addVhost(brokers[0]!, VHOST, 'quorum');
  const url = `amqp://${HOST}:${brokers[0]!.details.port}/${VHOST}`;
  for (const _ of NODES) startServer(url, ['--delay', '5']);
  await untilServed(url, NODES.length);
  const calls = new Calls([await RpcClient.connect({ url })]);
  for (const [i, broker] of brokers.entries()) {
    await untilReplicated(broker);
    console.error(`killing ${NODES[i]}`);
    await broker.kill();
    const enough = calls.right + 1_000;
    await until('1,000 calls without it', () => calls.right >= enough, 60_000);
    await broker.boot();
  }
  await report(brokers[0]!, await calls.end());
  return calls.right === calls.begun ? 0 : 1;
}

void runScript(main);
