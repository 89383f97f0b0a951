// npm run test:cluster: three nodes behind one host name, a quorum queue, and calls in flight while each node in turn
// is killed and comes back. The name has its three addresses in this process and its children alone: they see another
// /etc/hosts, in a mount namespace of their own. Nothing on the machine is changed.
import { spawnSync } from 'node:child_process';
import { lookup } from 'node:dns/promises';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fib } from '../../src/fib';
import { RpcClient } from '../../src/rpc_client';
import { Broker } from '../support/broker';
import { Command, freePort, newFolder, runScript, table, until } from '../support/processes';

const HOST = 'rabbitmq.test';
const ADDRESSES = ['127.0.0.11', '127.0.0.12', '127.0.0.13'];
const NODES = ADDRESSES.map((_, i) => `rpc-${i + 1}@localhost`);
const VHOST = 'cluster';
const SERVERS = 3;
const IN_FLIGHT = 16;
const CALLS_WITHOUT_A_NODE = 1_000;

/** Runs this script again where HOST has its addresses, and returns its exit status. */
function runWithHosts(): number {
  const hosts = path.join(newFolder('hosts'), 'hosts');
  writeFileSync(hosts, readFileSync('/etc/hosts', 'utf8') + ADDRESSES.map((address) => `${address} ${HOST}\n`).join(''));
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
    const peer = brokers[0] ? { peer: brokers[0] } : {};
    brokers.push(await Broker.prepare({ port, host: ADDRESSES[i]!, node, config, ...peer }));
  }
  await Promise.all(brokers.map((broker) => broker.boot())); // together, since RabbitMQ 4 waits for the others
  return brokers;
}

async function main(): Promise<number> {
  if (!(await lookup(HOST).catch(() => undefined))) return runWithHosts();
  console.log(`Starting three nodes at ${ADDRESSES.join(', ')}, all of them ${HOST}`);
  const brokers = await startCluster();
  const [first] = brokers as [Broker];
  await first.ctl('add_vhost', VHOST, '--default-queue-type', 'quorum');
  await first.ctl('set_permissions', '-p', VHOST, 'guest', '.*', '.*', '.*');
  process.env.AMQP_URL = `amqp://guest:guest@${HOST}:${first.port}/${VHOST}`;

  const servers = Array.from({ length: SERVERS }, () => new Command('node_modules/.bin/ts-node', ['src/rpc_server.ts', '--delay', '5']));
  await Promise.all(servers.map((server) => server.shows(/Awaiting/)));

  /** rpc_queue as a node sees it. */
  const queue = async (broker: Broker) => {
    const rows = await broker.ctl('list_queues', '-p', VHOST, 'name', 'type', 'leader', 'members', 'online', '--no-table-headers').catch(() => '');
    const [, type, leader, members, online] = /^rpc_queue\t(.*)\t(.*)\t\[(.*)\]\t\[(.*)\]$/m.exec(rows) ?? [];
    const nodes = (list = '') => list.split(', ').filter(Boolean).sort();
    return { type, leader, members: nodes(members), online: nodes(online) };
  };
  const before = await queue(first);
  if (before.type !== 'quorum' || before.members.length !== NODES.length) throw new Error(`rpc_queue is ${JSON.stringify(before)}`);
  console.log(`rpc_queue is a quorum queue with members ${before.members.join(', ')}; its leader is ${before.leader}`);

  const count = { right: 0, wrong: 0, longest: 0, kills: 0, moves: 0 };
  const failures: string[] = [];
  let done = false;
  const client = await RpcClient.connect();
  const keepCalling = async (_: unknown, i: number): Promise<void> => {
    for (let n = i; !done; n = (n + IN_FLIGHT) % 2_000) {
      const start = performance.now();
      await client.call(n).then((value) => (value === fib(n) ? count.right++ : count.wrong++), (error: Error) => failures.push(error.message));
      count.longest = Math.max(count.longest, performance.now() - start);
    }
  };
  const calling = Promise.all(Array.from({ length: IN_FLIGHT }, keepCalling));

  for (const [i, broker] of brokers.entries()) {
    const other = brokers[(i + 1) % brokers.length]!;
    const { leader } = await queue(other);
    console.log(`Killing ${NODES[i]}${leader === NODES[i] ? ', the leader' : ''}`);
    await broker.kill();
    count.kills++;
    const enough = count.right + CALLS_WITHOUT_A_NODE;
    await until(`${CALLS_WITHOUT_A_NODE} calls without ${NODES[i]}`, () => count.right >= enough, 60_000);
    const now = await until('a leader', async () => (await queue(other)).leader, 30_000);
    if (now !== leader) {
      count.moves++;
      console.log(`The leader is ${now} now`);
    }
    console.log(`${CALLS_WITHOUT_A_NODE} calls later: starting ${NODES[i]} again`);
    await broker.boot();
    await until('three members', async () => (await queue(other)).online.length === NODES.length, 60_000);
  }
  done = true;
  await calling;
  await client.close();

  console.log(table(['', ''], [
    ['calls', count.right + count.wrong + failures.length],
    ['right', count.right],
    ['wrong', count.wrong],
    ['failed', failures.length],
    ...[...new Set(failures)].map((reason) => ['failed with', reason]),
    ['longest call', `${Math.round(count.longest)} ms`],
    ['node kills', count.kills],
    ['leader moves', count.moves],
  ]));
  return count.wrong === 0 && failures.length === 0 && count.moves > 0 ? 0 : 1;
}

void runScript(main);
