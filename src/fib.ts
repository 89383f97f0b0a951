// The function that the server offers, and the check of its argument, which both scripts make.

const MAX_N = 10_000; // keeps each call quick: fib(10000) has 2,090 digits

/** The n-th Fibonacci number, exactly, for a whole number n from 0 to 10,000 (see parseN). */
export function fib(n: number): bigint {
  let [current, next] = [0n, 1n];
  for (let i = 0; i < n; i++) [current, next] = [next, current + next];
  return current;
}

/** @throws RangeError unless the text is a whole number from 0 to 10,000, in digits */
export function parseN(text: string): number {
  if (/^\d{1,5}$/.test(text) && Number(text) <= MAX_N) return Number(text);
  const shown = JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text);
  throw new RangeError(`n must be a whole number from 0 to ${MAX_N}, in digits; got ${shown}`);
}
