import { describe, expect, test } from 'vitest';
import { SCRIPTS, scriptFile, suite } from '../support/suite';

const it = suite();
const NO_BROKER = { AMQP_URL: 'amqp://localhost:1' };

const USAGES = {
  rpc_server: /^Usage: npx ts-node src\/rpc_server.ts \[--delay MS\]\n[^]*default 0[^]*guest@localhost:5672/,
  rpc_client: /^Usage: npx ts-node src\/rpc_client.ts \[--timeout MS\] \[N \.\.\.\]\n[^]*default 30\)[^]*default 30000/,
};

test.each(SCRIPTS)('%s --help prints the usage', async (script) => {
  const command = it.run(script, ['--help'], NO_BROKER);
  expect(await command.exit()).toBe(0);
  expect(command.stdout).toMatch(USAGES[script]);
  expect(command.stderr).toBe('');
});

describe('wrong usage is named, before connecting, and ends with status 2:', () => {
  test.each([
    ['rpc_server', ['--delay', '-1'], '--delay'],
    ['rpc_server', ['--delay=-1'], '"-1"'],
    ['rpc_server', ['--delay', '1.5'], '"1.5"'],
    ['rpc_server', ['--delay', '2147483648'], '"2147483648"'],
    ['rpc_server', ['--delay', ''], '""'],
    ['rpc_server', ['--delay'], '--delay'],
    ['rpc_server', ['30'], "'30'"],
    ['rpc_server', ['--dealy', '3'], '--dealy'],
    ['rpc_server', ['--\u001b[31m'], '\\u{1b}[31m'],
    ['rpc_client', ['abc'], '"abc"'],
    ['rpc_client', ['1', '1000001'], '"1000001"'],
    ['rpc_client', ['-5'], "'-5'"],
    ['rpc_client', ['--', '-5'], '"-5"'],
    ['rpc_client', ['1.5'], '"1.5"'],
    ['rpc_client', ['5', ''], '""'],
    ['rpc_client', ['\u001b[31m'], '"\\u001b[31m"'],
    ['rpc_client', ['--timeout', '0', '5'], '"0"'],
    ['rpc_client', ['--timeout', '2147483648'], '"2147483648"'],
    ['rpc_client', ['--timeout', '1s'], '"1s"'],
    ['rpc_client', ['--timeout'], '--timeout'],
    ['rpc_client', ['--retries', '3'], '--retries'],
  ] as const)('%s %j', async (script, args, named) => {
    const command = it.run(script, [...args], NO_BROKER);
    expect(await command.exit()).toBe(2);
    expect(command.stdout).toBe('');
    expect(command.stderr).toMatch(/^ \[!\] .*\nUsage: /);
    expect(command.stderr.split('\n')[0]).toContain(named);
  });
});

test.each(SCRIPTS)('%s is imported without starting anything', async (script) => {
  const command = it.command(process.execPath, ['-e', `require(${JSON.stringify(scriptFile(script))})`]);
  expect(await command.exit()).toBe(0);
  expect(command.stdout + command.stderr).toBe('');
});
