// npm run broker: a private RabbitMQ in the foreground, with the management UI, until Ctrl-C.
import { Broker, answers } from '../support/broker';
import { runScript } from '../support/processes';

const URL = 'amqp://guest:guest@localhost:5672';

async function main(): Promise<number> {
  if (await answers(URL)) {
    console.log(`RabbitMQ answers at ${URL} already.`);
    return 0;
  }
  console.log('Starting RabbitMQ ...');
  const broker = await Broker.start({ port: 5672, managementPort: 15672 });
  console.log(`RabbitMQ is ready at ${URL}`);
  console.log('Management UI at http://localhost:15672 (user guest, password guest)');
  console.log('Ctrl-C stops it and removes its data.');
  const { stdout, stderr } = await broker.node.end(Infinity);
  throw new Error(`RabbitMQ has ended:\n${stdout}${stderr}`); // unless it was Ctrl-C that ended it
}

void runScript(main, 0);
