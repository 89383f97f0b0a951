// Runs many command lines of a script one after another in this one process: those that end before anything connects.
import { EventEmitter } from 'node:events';
import { runMain } from 'node:module';
import { Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';

export interface CommandLine { args: string[]; url: string }
export interface Outcome { status: number | string; stdout: string; stderr: string }

async function outcomeOf(script: string, { args, url }: CommandLine): Promise<Outcome> {
  const [outcome, streams] = [{ stdout: '', stderr: '' }, ['stdout', 'stderr'] as const];
  for (const name of streams) process[name].write = (text: string | Uint8Array) => Boolean((outcome[name] += text));
  process.argv = [process.execPath, script, ...args];
  process.env.AMQP_URL = url;
  process.exitCode = undefined;
  delete require.cache[script];
  runMain(script); // as `node SCRIPT` does
  while (process.exitCode === undefined) await turn();
  return { status: process.exitCode, ...outcome };
}

async function main([script, commandLines]: string[]): Promise<void> {
  EventEmitter.defaultMaxListeners = Infinity; // each command line adds its own
  Socket.prototype.connect = () => process.exit(3); // before any broker notices
  const { write } = process.stdout;
  const outcomes: Outcome[] = [];
  for (const commandLine of JSON.parse(commandLines!)) outcomes.push(await outcomeOf(script!, commandLine));
  process.exitCode = 0;
  write.call(process.stdout, JSON.stringify(outcomes));
}

if (require.main === module) void main(process.argv.slice(2));
