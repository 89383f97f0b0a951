// What happens when the broker itself is killed, stopped, frozen, or takes no messages.
import { expect, test } from 'vitest';
import { fib } from '../src/fib';
import { Broker } from './support/broker';
import { until } from './support/machine';
import { LOST, built, useVhost } from './support/vhost';

const vhost = useVhost(() => Broker.startForTests());
const NUMBERS = ['1', '2', '3', '4', '5', '6', '7', '8'];

test.each([
  ['is killed', () => vhost.broker.kill(), () => vhost.broker.boot()],
  ['stops', () => vhost.broker.ctl('stop_app'), () => vhost.broker.ctl('start_app')],
])('a broker that %s and comes back costs no call', async (_, goAway, comeBack) => {
  const server = await vhost.startServer();
  await vhost.queueHas({ consumerCount: 1 });
  server.kill('SIGSTOP'); // with a request in its hands
  const client = vhost.runClient(...NUMBERS);
  await vhost.queueHas({ messageCount: NUMBERS.length - 1 });
  const gone = goAway();
  await client.shows(LOST);
  server.kill('SIGCONT');
  await server.shows(LOST);
  await gone;
  await comeBack();
  expect(await client.exit()).toBe(0);
  const answers = client.stdout.match(/^ \[\.\].*/gm)!.sort();
  expect(answers).toEqual(NUMBERS.map((n) => ` [.] fib(${n}) = ${fib(Number(n))}`));
});

// A program that calls and closes when it is told to, and says after how many ms it has ended.
const PROGRAM = `require(process.argv[1]).RpcClient.connect().then((client) => {
  process.once('SIGUSR2', () => {
    const closing = performance.now();
    client.call('30').catch((error) => console.log(error.message));
    process.once('exit', () => console.log('after', performance.now() - closing));
    client.close();
  });
  console.log('connected');
});`;

test('a broker that is frozen keeps no client from closing, and is noticed by heartbeats', async () => {
  const server = await vhost.startServer();
  const patient = await vhost.startServer([], `${vhost.url}?heartbeat=3600`);
  await vhost.queueHas({ consumerCount: 2 });
  const { call, log } = await vhost.connectClient();
  const program = vhost.runCommand('node', ['-e', PROGRAM, built('src/rpc_client')]);
  await program.shows(/connected/);
  vhost.broker.node.kill('SIGSTOP');
  program.kill('SIGUSR2');
  expect(await program.exit()).toBe(0);
  const [, ms] = /^connected\nthe client is closed\nafter (.*)\n$/.exec(program.stdout)!;
  expect(Number(ms)).toBeLessThan(2_000);
  const answered = call(30);
  const deadline = 60_000; // ms: three heartbeats of 5 s, and not of RabbitMQ's 60
  await server.shows(LOST, { deadline });
  await until('news of the client', () => LOST.test(log.join('\n')), deadline);
  expect(patient.stderr).toBe('');
  vhost.broker.node.kill('SIGCONT');
  expect(await answered).toBe('832040');
});

test('while the broker takes no messages, nothing goes out, and later nothing twice', async () => {
  const server = await vhost.startServer(['--delay', '1000']);
  const { client, call, log, logs } = await vhost.connectClient();
  const calls = [call(1)];
  await server.shows(/fib\(1\)/);
  await vhost.broker.ctl('set_vm_memory_high_watermark', '0');
  calls.push(call(2)); // RabbitMQ tells only those that publish
  await logs(/RabbitMQ is blocking publishers: low on memory/);
  expect(await client.describeQueue()).toBe('RabbitMQ is away, or is blocking publishers');
  await vhost.broker.ctl('set_vm_memory_high_watermark', '0.6');
  calls.push(call(3));
  expect(await Promise.all(calls)).toEqual(['1', '1', '2']);
  await logs(/RabbitMQ is not blocking publishers any more/);
  expect(log.join('\n')).not.toMatch(/Lost/);
  for (const n of [1, 2, 3]) expect(server.count(new RegExp(`fib\\(${n}\\)`))).toBe(1);
});
