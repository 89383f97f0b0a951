// npm run demo: two servers share a client's work, with the broker of AMQP_URL, or a private one.
import { createInterface } from 'node:readline';
import { Broker } from '../support/broker';
import { Command, runScript } from '../support/machine';

/** Runs a script, and prints its lines with its name in front. */
function run(name: string, ...args: string[]): Command {
  const command = new Command('node_modules/.bin/ts-node', args);
  for (const stream of [command.child.stdout!, command.child.stderr!]) {
    createInterface(stream).on('line', (line) => console.log(`${name.padEnd(8)} |${line}`));
  }
  return command;
}

async function main(): Promise<number> {
  if (!process.env.AMQP_URL) {
    console.log('demo     | Starting a private broker, which takes some seconds');
    process.env.AMQP_URL = (await Broker.start()).url();
  }
  const slow = ['src/rpc_server.ts', '--delay', '500'];
  const servers = [run('server 1', ...slow), run('server 2', ...slow)];
  for (const server of servers) await server.shows(/Awaiting|\[!\]/);
  const client = run('client', 'src/rpc_client.ts', '30', '10', '20', '40', '50', '100');
  const status = await client.exit();
  for (const server of servers) server.kill('SIGTERM');
  for (const server of servers) await server.exit(); // before the broker: they would report its loss
  return Number(status);
}

void runScript(main);
