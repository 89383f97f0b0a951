// npm run broker: a private RabbitMQ in the foreground, with the management UI, until Ctrl-C. Its ports are RabbitMQ's
// own, or BROKER_PORT and BROKER_MANAGEMENT_PORT of the environment.
import { Broker, answers } from '../support/broker';
import { runScript } from '../support/processes';

const { BROKER_PORT = '5672', BROKER_MANAGEMENT_PORT = '15672' } = process.env;
const URL = `amqp://guest:guest@localhost:${BROKER_PORT}`;

async function main(): Promise<number> {
  if (await answers(URL)) {
    console.log(`RabbitMQ answers at ${URL} already.`);
    return 0;
  }
  console.log('Starting RabbitMQ ...');
  const broker = await Broker.start({ port: Number(BROKER_PORT), managementPort: Number(BROKER_MANAGEMENT_PORT) });
  console.log(`RabbitMQ is ready at ${URL}`);
  console.log(`Management UI at http://localhost:${BROKER_MANAGEMENT_PORT} (user guest, password guest)`);
  console.log('Ctrl-C stops it and removes its data.');
  const { stdout, stderr } = await broker.node.end(Infinity);
  throw new Error(`RabbitMQ has ended:\n${stdout}${stderr}`); // unless it was Ctrl-C that ended it
}

void runScript(main, 0);
