// npx ts-node test/load/pauses.ts: which pauses between two attempts bring many clients back soonest, as a simulation.
// A broker is away for a minute: whoever tries is refused at once. Then it takes 1,000 handshakes a second and works at
// all that have begun, as RabbitMQ does; one that is not done in ten seconds is given up, and the work for it is lost.
import { table } from './shared';

/** `cap`: the longest pause, in seconds, but for a quarter more or less at random, after some half as long each. */
function simulate(clients: number, cap: number): (string | number)[] {
  const [due, vain] = [[] as number[][], new Uint16Array(clients)]; // who tries, by tick of 10 ms; attempts in vain
  const handshakes: { client: number; begun: number; work: number }[] = []; // first in, first out
  const tryAgain = (client: number, now: number) => {
    const pause = Math.min(cap, 0.05 * 2 ** ++vain[client]!) * (0.75 + Math.random() / 2);
    (due[Math.ceil((now + pause) * 100)] ??= []).push(client);
  };
  vain.forEach((_, client) => tryAgain(client, 0));
  let [now, back, ended, work] = [0, 0, 0, 0]; // work: handshakes that one which was always there would have got
  for (let tick = 0; back < clients && now < 660; now = ++tick / 100) {
    for (const client of due[tick] ?? []) {
      if (now < 60) tryAgain(client, now);
      else handshakes.push({ client, begun: now, work });
    }
    work += 10 / Math.max(1, handshakes.length - ended);
    for (let first = handshakes[ended]; first; first = handshakes[++ended]) {
      if (work - first.work >= 1) back++;
      else if (now - first.begun >= 10) tryAgain(first.client, now);
      else break;
    }
  }
  return [back < clients ? `only ${back}` : Math.round(now - 60), Math.round(handshakes.length / clients)];
}

const rows = [1e4, 1e5].flatMap((n) => [1, 2, 5, 10, 30].map((cap) => [n, `up to ${cap} s`, ...simulate(n, cap)]));
console.log(table(['clients', 'pauses', 'seconds until all are back, of 600', 'attempts each'], rows));
