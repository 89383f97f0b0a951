import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { ROOT } from '../support/processes';

const read = (...file: string[]) => readFileSync(path.join(ROOT, ...file), 'utf8');
const readme = read('README.md');

describe('the README', () => {
  test('names only npm scripts that exist, and all of them', () => {
    const named = [...readme.matchAll(/npm (?:run ([\w:]+)|(test))/g)].map(([, run, test]) => run ?? test!);
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
    expect([...new Set(named)].sort()).toEqual(Object.keys(scripts).sort());
  });

  test('links only to files that exist', () => {
    const links = [...readme.matchAll(/\]\((?!http)([^)]+)\)/g)].map(([, file]) => file!);
    expect(links.filter((file) => !existsSync(path.join(ROOT, file)))).toEqual([]);
    expect(links).toContain('src/rpc_server.ts');
  });

  test('names only tests that exist', () => {
    const tests = [...readme.matchAll(/\| `([\w/]+\.test\.ts)`: (.+) \|$/gm)];
    expect(tests.length).toBeGreaterThan(10);
    for (const [, file, name] of tests) expect(read('test', file!)).toContain(`'${name}'`);
  });

  test('has a sequence diagram without semicolons, which end a statement there', () => {
    expect(/```mermaid\nsequenceDiagram\n([^]*?)```/.exec(readme)![1]).not.toContain(';');
  });

  test('quotes only lines that are in the source', () => {
    const source = ['fib', 'connection', 'rpc_server', 'rpc_client'].map((name) => read('src', `${name}.ts`)).join('');
    const quotes = [...readme.matchAll(/```ts\n([^]*?)```/g)].flatMap(([, code]) => code!.trim().split('\n'));
    expect(quotes.length).toBeGreaterThan(5);
    for (const line of quotes) expect(source).toContain(line.trim());
  });
});
