import { execFileSync } from 'node:child_process';
import { cpSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { runFolder } from '../support/processes';
import { QUIET, suite, take } from '../support/suite';

const it = suite();

const SERVICE = `
export type Argument = { word: string };
export type Result = { letters: string[] } | null;
export const DEFAULT_ARGUMENT: Argument = { word: 'rabbit' };
export const CONTENT_TYPE = 'application/json';

export async function fib({ word }: Argument): Promise<Result> {
  await new Promise(word === 'stuck' ? () => {} : setImmediate);
  if (word === 'fail') throw new Error('no such word');
  return word ? { letters: [...word].sort() } : null;
}

export const writeArgument = (argument: Argument): Buffer => Buffer.from(JSON.stringify(argument));
export const writeResult = (result: Result): Buffer => Buffer.from(JSON.stringify(result));
export const readResult = (body: Buffer): Result => JSON.parse(body.toString());
export function readArgument(body: Buffer): Argument {
  const { word } = JSON.parse(body.toString());
  if (typeof word !== 'string') throw new TypeError('word must be a string');
  return { word };
}
`;

test('src with another fib.ts, asynchronous, JSON in and JSON out, and nothing else changed, works', async () => {
  const folder = path.join(runFolder(), 'built', 'service'); // where there are node_modules
  for (const file of ['src', 'tsconfig.json']) cpSync(file, path.join(folder, file), { recursive: true });
  const run = (script: string, ...args: string[]) => it.command('node', [`${folder}/dist/${script}`, ...args]);
  writeFileSync(`${folder}/src/fib.ts`, SERVICE);
  execFileSync('node_modules/.bin/tsc', ['-p', folder]); // with its types checked
  const line = await it.proxy();
  const server = it.command('node', [`${folder}/dist/rpc_server.js`], { AMQP_URL: line.url });
  await server.shows(/Awaiting/);
  const stdout = ' [x] Requesting fib({"word":"rabbit"})\n [.] Got {"letters":["a","b","b","i","r","t"]}\n';
  expect(await run('rpc_client.js').end()).toEqual({ status: 0, stdout, stderr: QUIET });
  const mixed = await run('rpc_client.js', '{"word":"fail"}', '{"word":""}').end();
  expect(mixed).toMatchObject({ status: 1, stderr: ' [!] fib({"word":"fail"}): no such word\n' });
  expect(mixed.stdout).toContain(' [.] fib({"word":""}) = null\n');
  expect(server.stdout).toContain(' [.] fib({"word":"rabbit"})\n');
  const stderr = expect.stringMatching(/^ \[!\] word must be a string\nUsage: /);
  expect(await run('rpc_client.js', '{"word":1}').end()).toEqual({ status: 2, stdout: '', stderr });
  expect(await run('rpc_client.js', '--timeout', '3000', '{"word":"stuck"}').exit()).toBe(1);
  await server.shows(/stuck/); // and is at work on it for ever, but keeps no later request waiting
  line.cut();
  await server.shows(/Awaiting/, { times: 2 });
  expect(await run('rpc_client.js').exit()).toBe(0);
  const { channel } = await it.peer();
  const { queue: replyTo } = await channel.assertQueue('', { exclusive: true });
  for (const [request, ...reply] of [
    ['{}', 'word must be a string', 'error', 'text/plain'],
    ['{"word":"ba"}', '{"letters":["a","b"]}', 'result', 'application/json'],
  ] as const) {
    channel.sendToQueue('rpc_queue', Buffer.from(request), { replyTo });
    const { content, properties: { type, contentType } } = await take(channel, replyTo);
    expect([content.toString(), type, contentType]).toEqual(reply);
  }
});
