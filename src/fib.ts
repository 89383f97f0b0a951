// The service: the function that is called, and how its argument and its result are written into a message and read
// from one. A function of your own goes here; in other files only the word fib in output and usage texts changes.

export type Argument = number; // n, a whole number from 0 to 1,000,000
export type Result = bigint; // fib(n), of 208,988 digits at most
export const DEFAULT_ARGUMENT: Argument = 30; // where the command line names nothing
export const CONTENT_TYPE = 'text/plain'; // the AMQP property of requests and results

const MAX_N = 1_000_000;
const MAX_DIGITS = 208_988; // of fib(MAX_N)

/**
 * The n-th Fibonacci number, exactly, by fast doubling: a step for each binary digit of n, with the identities
 * fib(2k) = fib(k) · (2 fib(k+1) − fib(k)) and fib(2k+1) = fib(k)² + fib(k+1)² (Knuth, The Art of Computer
 * Programming, volume 1, section 1.2.8). The tutorial's doubly recursive function takes fib(n) steps. The server awaits
 * the result: a function in its place may be asynchronous, and what it throws is reported to the caller.
 *
 * @throws RangeError if n is not a whole number from 0 to 1,000,000
 */
export function fib(n: Argument): Result {
  const bits = checkN(n).toString(2);
  let [a, b] = [0n, 1n]; // fib(k) and fib(k+1), from k = 0
  for (const bit of bits) {
    [a, b] = [a * (2n * b - a), a * a + b * b];
    if (bit === '1') [a, b] = [b, a + b];
  }
  return a;
}

/** @throws RangeError if n is not a whole number from 0 to 1,000,000 */
export const writeArgument = (n: Argument): Buffer => Buffer.from(String(checkN(n)));

/** Reads what is typed at the client, and what arrives at the server. @throws RangeError if it is not n, in 7 digits */
export function readArgument(body: Buffer): Argument {
  const text = body.toString('utf8', 0, 50); // more is refused
  return checkN(/^\d{1,7}$/.test(text) ? Number(text) : NaN, text);
}

export const writeResult = (value: Result): Buffer => Buffer.from(value.toString());

/** @throws Error if the body is anything but decimal digits, 208,988 at most; the message shows how it begins */
export function readResult(body: Buffer): Result {
  const text = body.toString('utf8', 0, MAX_DIGITS + 1);
  if (/^\d+$/.test(text) && text.length <= MAX_DIGITS) return BigInt(text);
  const beginning = JSON.stringify(text.slice(0, 40));
  throw new Error(`the reply is not a number: it begins with ${beginning} and has ${body.length} bytes`);
}

function checkN(n: number, given = String(n)): number {
  if (Number.isInteger(n) && n >= 0 && n <= MAX_N) return n;
  const shown = JSON.stringify(given.length > 40 ? `${given.slice(0, 40)}…` : given);
  throw new RangeError(`n must be a whole number from 0 to ${MAX_N}, in digits; got ${shown}`);
}
