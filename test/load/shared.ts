// What bench, soak and cluster share: the scripts as JavaScript, the line above their tables, an order at random.
import { connect } from 'amqplib';
import { execFileSync } from 'node:child_process';
import { symlinkSync } from 'node:fs';
import { cpus } from 'node:os';
import path from 'node:path';
import type { Broker } from '../support/broker';
import { ROOT, newFolder } from '../support/processes';

/** Builds src as JavaScript, which starts faster than ts-node does, and returns its folder. */
export function build(): string {
  const folder = newFolder('built');
  execFileSync('node_modules/.bin/tsc', ['--outDir', folder], { cwd: ROOT });
  symlinkSync(path.join(ROOT, 'node_modules'), path.join(folder, 'node_modules'));
  return folder;
}

/** What was run, on what, and when. */
export async function heading(command: string, broker: Broker): Promise<string> {
  const connection = await connect(broker.url());
  const rabbitmq = `RabbitMQ ${connection.connection.serverProperties.version}`;
  await connection.close();
  const cores = `${cpus().length} cores (${cpus()[0]!.model.trim()})`;
  return `\`${command}\`, ${rabbitmq}, Node ${process.version.slice(1)}, ${cores}, ${new Date().toISOString().slice(0, 10)}`;
}

/** A copy in an order at random (Fisher and Yates). */
export function shuffled<T>(values: readonly T[], random: () => number): T[] {
  const rest = [...values];
  return values.map(() => rest.splice(Math.floor(random() * rest.length), 1)[0]!);
}
