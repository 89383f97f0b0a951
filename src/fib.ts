// The function that is called, and the check of its argument: all that a service of your own would replace.

/** The largest n that is answered: fib(1,000,000) has 208,988 digits and takes some 50 ms. */
export const MAX_N = 1_000_000;
export const MAX_DIGITS = 208_988;

/**
 * Checks a request's argument, where it is typed in and again where it arrives.
 *
 * @param value n, as a number or in decimal digits (at most 7)
 * @returns n, a whole number from 0 to 1,000,000
 * @throws RangeError if it is anything else; the message names it, cut to 40 characters and escaped
 */
export function parseArgument(value: string | number): number {
  const text = String(value);
  if (/^\d{1,7}$/.test(text) && Number(text) <= MAX_N) return Number(text);
  const shown = JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text);
  throw new RangeError(`n must be a whole number from 0 to ${MAX_N}, in digits; got ${shown}`);
}

/**
 * The n-th Fibonacci number, exactly, by fast doubling: a step for each binary digit of n, with the identities
 * fib(2k) = fib(k) · (2 fib(k+1) − fib(k)) and fib(2k+1) = fib(k)² + fib(k+1)² (Knuth, The Art of Computer
 * Programming, volume 1, section 1.2.8). The tutorial's doubly recursive function takes fib(n) steps.
 *
 * @param n a whole number from 0 to 1,000,000
 * @throws RangeError if n is anything else
 */
export function fib(n: number): bigint {
  let [a, b] = [0n, 1n]; // fib(k) and fib(k+1), from k = 0
  for (const bit of parseArgument(n).toString(2)) {
    [a, b] = [a * (2n * b - a), a * a + b * b];
    if (bit === '1') [a, b] = [b, a + b];
  }
  return a;
}
