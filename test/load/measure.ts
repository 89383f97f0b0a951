// What the benchmark's parts measure with: calls in flight, rounds, and numbers as the tables say them.
import { endAll, ends, shuffled, type Row } from './shared';

/** Makes one call; `i` says which of those that are in flight at a time. */
export type Call = (i: number) => Promise<unknown>;

/** Keeps calls in flight, first for a tenth of the time to warm up. Returns calls/s, median and 99th percentile ms. */
export async function measure(call: Call, inFlight: number, seconds = 0.5): Promise<[number, number, number]> {
  const times: number[] = [];
  const begin = performance.now() + seconds * 100;
  const keepCalling = async (_: unknown, i: number) => {
    for (let start = performance.now(); start < begin + seconds * 1_000; start = performance.now()) {
      await call(i);
      if (start >= begin) times.push(performance.now() - start);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, keepCalling));
  return [times.length / seconds, median(times), quantile(times, 0.99)];
}

type Columns<Values> = { [Value in keyof Values]: number[] };

/**
 * Measures each case once a round, in an order at random, so that what else the machine does befalls all of them alike.
 * Returns a table's rows: `toRow` gets what was measured of a case in all rounds, the case, and what was of all cases.
 */
export async function rounds<Case, Values extends number[]>(
  part: string, times: number, cases: Case[], measureCase: (one: Case) => Promise<[...Values]>,
  toRow: (measured: Columns<Values>, one: Case, all: Columns<Values>[]) => Row, first?: 'in order', // the first round
): Promise<Row[]> {
  const all = cases.map(() => [] as number[][] as Columns<Values>);
  for (let round = 1; round <= times; round++) {
    console.error(`${part}: round ${round} of ${times}`);
    for (const i of shuffled([...cases.keys()], round === 1 && first ? () => 0 : Math.random)) {
      const before = ends.length;
      const values = await measureCase(cases[i]!);
      await endAll(before); // what the case has started
      values.forEach((value, column) => (all[i]![column] ??= []).push(value));
    }
  }
  return all.map((measured, i) => toRow(measured, cases[i]!, all));
}

/** The value that `share` of the values are below. */
const quantile = (values: number[], share: number) =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length * share)]!;
export const median = (values: number[]) => quantile(values, 0.5);
export const digits = (value: number) =>
  value.toLocaleString('en', { maximumSignificantDigits: Math.min(4, Math.max(2, Math.ceil(Math.log10(value)))) });
/** The median of the rounds, and their least and greatest. */
export const spread = (values: number[]) =>
  `${digits(median(values))} (${digits(Math.min(...values))} to ${digits(Math.max(...values))})`;
/** The median of the rounds' ratios. */
export const ratio = (values: number[], others: number[]) =>
  digits(median(values.map((value, round) => value / others[round]!)));
export const total = (values: number[]) => values.reduce((sum, value) => sum + value) || 'none';
