// npx ts-node test/load/pauses.ts: which pauses between two attempts bring many clients back soonest, as a simulation.
// A broker is away for a minute: whoever tries is refused at once. Then it takes 1,000 handshakes a second and works at
// all that have begun, as RabbitMQ does; one that is not done in ten seconds is given up, and the work for it is lost.
import { table } from './shared';

const AWAY = 60; // seconds
const RATE = 1_000; // handshakes a second
const LIMIT = 10; // seconds for a handshake
const TICK = 0.01; // seconds
const LONGEST = 600; // seconds of the broker's time that are looked at

/** Seconds to the next attempt, after so many in vain and the pause before; `late`: the last was given up. */
type Rule = (vain: number, late: boolean, before: number) => number;

const between = (from: number, to: number) => from + Math.random() * (to - from);
const doubled = (vain: number, cap: number) => Math.min(cap, 0.05 * 2 ** vain);
const about = (cap: number): Rule => (vain) => doubled(vain, cap) * between(0.75, 1.25);
const RULES: Record<string, Rule> = {};
for (const cap of [1, 2, 5, 10, 30]) RULES[`up to ${cap} s`] = about(cap);
RULES['up to 2 s, full jitter'] = (vain) => between(0, doubled(vain, 2));
RULES['up to 2 s, decorrelated'] = (_, __, before) => Math.min(2, between(0.05, 3 * before));
for (const cap of [30, 60, 120]) {
  RULES[`up to 2 s; after a handshake given up, ${cap} s ± 50 %`] = (vain, late) =>
    (late ? doubled(vain, cap) * between(0.5, 1.5) : doubled(vain, 2) * between(0.75, 1.25));
}

function simulate(pauseAfter: Rule, clients: number) {
  const due: number[][] = []; // by tick, who tries then
  const states = Array.from({ length: clients }, () => ({ vain: 0, pause: 0.05 }));
  const handshakes: { client: number; begun: number; work: number }[] = []; // first in, first out
  const tryAgain = (client: number, now: number, late: boolean) => {
    const state = states[client]!;
    state.pause = pauseAfter(++state.vain, late, state.pause);
    (due[Math.ceil((now + state.pause) / TICK)] ??= []).push(client);
  };
  states.forEach((_, client) => tryAgain(client, 0, false));
  let [now, back, ended, most, work] = [0, 0, 0, 0, 0]; // work: what one that was always there has got
  for (let tick = 0; back < clients && now < AWAY + LONGEST; now = ++tick * TICK) {
    for (const client of due[tick] ?? []) {
      if (now < AWAY) tryAgain(client, now, false);
      else handshakes.push({ client, begun: now, work });
    }
    const active = handshakes.length - ended;
    most = Math.max(most, active);
    work += (RATE * TICK) / Math.max(1, active);
    for (let first = handshakes[ended]; first; first = handshakes[++ended]) {
      if (work - first.work >= 1) back++;
      else if (now - first.begun >= LIMIT) tryAgain(first.client, now, true);
      else break;
    }
  }
  return [back < clients ? `only ${back}` : Math.round(now - AWAY), Math.round(handshakes.length / clients), most];
}

const SIZES = [100, 10_000, 100_000];
const head = ['pauses', ...SIZES.flatMap((size) => [`${size} clients: s`, 'attempts each', 'most at a time'])];
const rows = Object.entries(RULES).map(([name, rule]) => [name, ...SIZES.flatMap((size) => simulate(rule, size))]);
console.log(table(head, rows));
