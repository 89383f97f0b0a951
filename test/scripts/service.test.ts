import { execFileSync } from 'node:child_process';
import { cpSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { ROOT, newFolder } from '../support/processes';
import { suite, take } from '../support/suite';

const it = suite();

const SERVICE = `
export type Argument = { word: string };
export type Result = { letters: string[] } | null;
export const DEFAULT_ARGUMENT: Argument = { word: 'rabbit' };
export const CONTENT_TYPE = 'application/json';

export async function fib({ word }: Argument): Promise<Result> {
  await new Promise(setImmediate);
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

describe('src with another fib.ts, asynchronous, with JSON on both sides, and nothing else changed,', () => {
  const folder = newFolder('service');
  const run = (script: string, ...args: string[]) => it.command(process.execPath, [path.join(folder, 'dist', script), ...args]);

  beforeAll(() => {
    for (const file of ['src', 'tsconfig.json']) cpSync(path.join(ROOT, file), path.join(folder, file), { recursive: true });
    symlinkSync(path.join(ROOT, 'node_modules'), path.join(folder, 'node_modules'));
    writeFileSync(path.join(folder, 'src/fib.ts'), SERVICE);
    execFileSync('node_modules/.bin/tsc', { cwd: folder, encoding: 'utf8' }); // with its types checked
  });

  test('is a server and a client', async () => {
    const server = run('rpc_server.js');
    await server.shows(/Awaiting/);
    const client = run('rpc_client.js');
    expect(await client.exit()).toBe(0);
    expect(client.stdout).toBe(
      ' [x] Requesting fib({"word":"rabbit"})\n [.] Got {"letters":["a","b","b","i","r","t"]}\n',
    );
    const failing = run('rpc_client.js', '{"word":"fail"}', '{"word":""}');
    expect(await failing.exit()).toBe(1);
    expect(failing.stdout).toContain(' [.] fib({"word":""}) = null\n');
    expect(failing.stderr).toBe(' [!] fib({"word":"fail"}): no such word\n');
    expect(server.stdout).toContain(' [.] fib({"word":"rabbit"})\n');
  });

  test('checks what is typed and what arrives', async () => {
    const client = run('rpc_client.js', '{"word":1}');
    expect(await client.exit()).toBe(2);
    expect(client.stderr).toMatch(/^ \[!\] word must be a string\nUsage: /);
    const server = run('rpc_server.js');
    await server.shows(/Awaiting/);
    const { channel } = await it.peer();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    channel.sendToQueue('rpc_queue', Buffer.from('{}'), { replyTo: queue });
    const refused = await take(channel, queue);
    expect([refused.content.toString(), refused.properties.contentType]).toEqual(['word must be a string', 'text/plain']);
    channel.sendToQueue('rpc_queue', Buffer.from('{"word":"ba"}'), { replyTo: queue });
    const answered = await take(channel, queue);
    expect([answered.content.toString(), answered.properties.contentType]).toEqual(['{"letters":["a","b"]}', 'application/json']);
  });
});
