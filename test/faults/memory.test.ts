import { expect, test } from 'vitest';
import { built, suite } from '../support/suite';

const it = suite();

// Runs in a process of its own, with the pauses between two attempts cut to a millisecond. Says how much heap the last
// nine tenths of the connections took, in bytes.
const PROGRAM = `
const timers = require('node:timers/promises');
const realPause = timers.setTimeout;
const [{ keepConnected }, { Proxy }] = process.argv.slice(1).map(require);
const heap = () => (gc(), process.memoryUsage().heapUsed);

async function measure(connections, faults, onSetUp) {
  const line = Object.assign(await Proxy.start(process.env.AMQP_URL), { faults });
  const stop = new AbortController();
  let [pauses, begin] = [0, 0];
  timers.setTimeout = (ms, ...rest) => {
    if (++pauses === connections / 10) begin = heap();
    if (pauses === connections) stop.abort();
    return realPause(Math.min(ms, 1), ...rest);
  };
  const openChannel = (connection) => connection.createChannel();
  const setUp = async () => void setImmediate(() => onSetUp(line));
  const options = { name: 'memory', waitForBroker: true, openChannel, setUp, log: () => {}, stop: stop.signal };
  await keepConnected({ url: line.url, ...options });
  await line.refuse();
  await realPause(100); // for what the last socket has to say
  console.log(heap() - begin);
}

measure(2000, { closing: true }).then(() => measure(200, {}, (line) => line.cut()));
`;

test('2,000 attempts in vain and 200 lost connections leave the heap where it was', async () => {
  const modules = [built('src/connection'), built('test/support/proxy')];
  const program = it.command(process.execPath, ['--expose-gc', '-e', PROGRAM, ...modules]);
  expect(await program.exit()).toBe(0);
  const growth = program.stdout.match(/-?\d+/g)!.map(Number);
  expect(growth).toHaveLength(2);
  expect(Math.max(...growth)).toBeLessThan(2 ** 20);
});
