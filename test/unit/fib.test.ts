import { describe, expect, test } from 'vitest';
import { MAX_DIGITS, MAX_N, fib, parseArgument } from '../../src/fib';

describe('fib', () => {
  test('has the values of the tutorial', () => {
    expect([0, 1, 2, 3, 4, 10, 30].map(fib)).toEqual([0n, 1n, 1n, 2n, 3n, 55n, 832040n]);
  });

  test('is exact where doubles (n = 79) and 64-bit integers (n = 93) are not', () => {
    expect(fib(78)).toBe(8944394323791464n);
    expect(fib(79)).toBe(14472334024676221n);
    expect(fib(92)).toBe(7540113804746346429n);
    expect(fib(93)).toBe(12200160415121876738n);
  });

  test('reaches n = 1,000,000', () => {
    const digits = fib(MAX_N).toString();
    expect(digits).toHaveLength(MAX_DIGITS);
    expect(digits.slice(0, 20)).toBe('19532821287077577316');
    expect(digits.slice(-20)).toBe('68996526838242546875');
  });

  test('is the sum of the two before it, for every n up to 2,000', () => {
    for (let n = 2; n <= 2_000; n++) expect(fib(n)).toBe(fib(n - 1) + fib(n - 2));
  });

  test('meets fib(m + n) = fib(m) fib(n + 1) + fib(m - 1) fib(n) far apart', () => {
    for (let m = 1; m < 60_000; m = m * 3 + 1) {
      for (let n = 0; n < 60_000; n = n * 5 + 2) expect(fib(m + n)).toBe(fib(m) * fib(n + 1) + fib(m - 1) * fib(n));
    }
  });

  test.each([-1, 1.5, NaN, Infinity, 1_000_001, 1e21])('refuses %s', (n) => {
    expect(() => fib(n)).toThrow(RangeError);
    expect(() => fib(n)).toThrow(`n must be a whole number from 0 to 1000000, in digits; got "${n}"`);
  });
});

describe('parseArgument', () => {
  test.each([['0', 0], ['30', 30], ['0000030', 30], ['1000000', 1_000_000]])('takes %s', (text, n) => {
    expect(parseArgument(text)).toBe(n);
  });

  test.each(['', ' ', '30 ', '-1', '+1', '1.0', '1e3', '0x1f', '1_000', '1000001', '00000030', '٣٠', 'abc'])('refuses %j', (text) => {
    expect(() => parseArgument(text)).toThrow(`got ${JSON.stringify(text)}`);
  });

  test('cuts and escapes the text that it refuses', () => {
    expect(() => parseArgument(`\u001b[31m${'x'.repeat(100)}`)).toThrow(`got "\\u001b[31m${'x'.repeat(35)}…"`);
  });
});
