import path from 'node:path';
import { expect, test } from 'vitest';
import { scriptFile, suite } from '../support/suite';

const it = suite();

// Runs in a process of its own, with the pauses between two attempts cut to a millisecond.
const PROGRAM = `
const net = require('node:net');
const timers = require('node:timers/promises');
const realPause = timers.setTimeout;
timers.setTimeout = (ms, ...rest) => realPause(Math.min(ms, 1), ...rest);
const { keepConnected } = require(process.argv[1]);

/** Connects through 'accept' until there have been so many connections, and prints how much heap the last nine tenths took. */
async function measure(name, connections, accept, setUp) {
  const stop = new AbortController();
  let count = 0;
  let begin = 0;
  const heap = () => (gc(), process.memoryUsage().heapUsed);
  const server = net.createServer((socket) => {
    if (++count === connections / 10) begin = heap();
    if (count === connections) stop.abort();
    accept(socket);
  }).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const url = 'amqp://127.0.0.1:' + server.address().port + new URL(process.env.AMQP_URL).pathname;
  const openChannel = (connection) => connection.createChannel();
  await keepConnected({ url, name, waitForBroker: true, openChannel, setUp, log: () => {}, stop: stop.signal });
  server.close();
  await realPause(100); // for what the last socket has to say
  console.log(name, count, Math.round((heap() - begin) / 1024), 'kB');
}

(async () => {
  await measure('in vain', 5000, (socket) => socket.on('error', () => {}).resume().end(), async () => {});
  let line;
  const forward = (socket) => {
    line = socket;
    const { hostname, port } = new URL(process.env.AMQP_URL);
    const broker = net.connect(Number(port), hostname);
    for (const [from, to] of [[socket, broker], [broker, socket]]) from.on('error', () => {}).on('close', () => to.destroy()).pipe(to);
  };
  await measure('lost', 200, forward, async () => void setImmediate(() => line.destroy()));
})();
`;

test('5,000 attempts in vain and 200 lost connections leave the heap where it was', async () => {
  const connection = path.join(path.dirname(scriptFile('rpc_client')), 'connection.js');
  const program = it.command(process.execPath, ['--expose-gc', '-e', PROGRAM, connection]);
  expect(await program.exit(100_000)).toBe(0);
  const grown = [...program.stdout.matchAll(/^(.*) (\d+) (-?\d+) kB$/gm)].map(([, name, count, kB]) => ({ name, count, kB: Number(kB) }));
  expect(grown.map(({ name, count }) => [name, count])).toEqual([['in vain', '5000'], ['lost', '200']]);
  for (const { kB } of grown) expect(kB).toBeLessThan(1_024);
});
