// npm run broker: a private RabbitMQ in the foreground, with the management UI, until Ctrl-C. Its
// ports are RabbitMQ's own, or BROKER_PORT and BROKER_MANAGEMENT_PORT of the environment.
import { connect } from 'amqplib';
import { Broker } from '../support/broker';
import { runScript } from '../support/machine';

const port = Number(process.env.BROKER_PORT ?? 5672);
const managementPort = Number(process.env.BROKER_MANAGEMENT_PORT ?? 15672);
const URL = `amqp://guest:guest@localhost:${port}`;

async function main(): Promise<number> {
  const other = await connect(URL, { timeout: 60_000 }).catch(() => undefined);
  if (other) {
    console.log(`RabbitMQ answers at ${URL} already.`);
    await other.close();
    return 0;
  }
  console.log('Starting RabbitMQ ...');
  const { node } = await Broker.start({ port, managementPort });
  console.log(`RabbitMQ is ready at ${URL}`);
  console.log(`Management UI at http://localhost:${managementPort} (user guest, password guest)`);
  console.log('Ctrl-C stops it and removes its data.');
  await node.end(Infinity);
  throw new Error(`RabbitMQ has ended:\n${node.output}`); // unless it was Ctrl-C that ended it
}

void runScript(main, 0);
