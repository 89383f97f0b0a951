// npm run bench -- [PART ...]: what a call costs, and how that grows. What is compared is measured side by side in one
// run, and told as ratios.
import { Broker } from '../support/broker';
import { runScript } from '../support/processes';
import { benchCalls, benchFib, benchServers } from './bench_calls';
import { benchClients, benchReturn } from './bench_clients';
import { page } from './shared';

const PARTS: Record<string, (broker: Broker) => Promise<string>> = {
  calls: benchCalls,
  servers: benchServers,
  clients: benchClients,
  fib: benchFib,
  return: benchReturn,
};

async function main(): Promise<number> {
  const names = process.argv.slice(2);
  const unknown = names.find((name) => !Object.hasOwn(PARTS, name));
  if (unknown !== undefined) {
    console.error(`There is no part "${unknown}". The parts are: ${Object.keys(PARTS).join(', ')}`);
    return 2;
  }
  const tables: string[] = [];
  let broker: Broker | undefined;
  for (const name of names.length > 0 ? names : Object.keys(PARTS)) {
    await broker?.kill();
    broker = await Broker.start(); // a new one for each part: none pays for what another has left in memory
    tables.push(await PARTS[name]!(broker));
  }
  const command = ['npm run bench', ...names].join(' ').replace('bench ', 'bench -- ');
  console.log(await page(command, broker!, ...tables));
  return 0;
}

void runScript(main);
