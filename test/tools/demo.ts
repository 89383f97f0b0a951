// npm run demo: two servers share the work of a client, on one screen; with a private broker, where there is none at
// AMQP_URL or where npm run broker would start one.
import { createInterface } from 'node:readline';
import { Broker, answers } from '../support/broker';
import { Command, runScript } from '../support/processes';

const { AMQP_URL, BROKER_PORT = '5672' } = process.env;

async function main(): Promise<number> {
  let url = AMQP_URL || `amqp://guest:guest@localhost:${BROKER_PORT}`;
  if (!AMQP_URL && !(await answers(url))) {
    console.log(`demo     | No broker at localhost:${BROKER_PORT}: starting a private one, which takes some seconds`);
    url = (await Broker.start()).url();
  }
  const run = (name: string, ...args: string[]): Command => {
    const command = new Command('node_modules/.bin/ts-node', args, { ...process.env, AMQP_URL: url });
    for (const stream of [command.child.stdout!, command.child.stderr!]) {
      createInterface(stream).on('line', (line) => console.log(`${name.padEnd(8)} |${line}`));
    }
    return command;
  };
  const servers = ['server 1', 'server 2'].map((name) => run(name, 'src/rpc_server.ts', '--delay', '500'));
  await Promise.all(servers.map((server) => server.shows(/Awaiting|\[!\]/)));
  const status = Number(await run('client', 'src/rpc_client.ts', '30', '10', '20', '40', '50', '100').exit());
  for (const server of servers) server.kill('SIGTERM');
  await Promise.all(servers.map((server) => server.exit())); // before the broker, whose loss they would report
  return status;
}

void runScript(main);
