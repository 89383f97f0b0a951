// A TCP proxy between a program and the broker that does what networks do: cut, refuse, keep silent, hold, delay.
import { once } from 'node:events';
import { createConnection, createServer, type AddressInfo, type Socket } from 'node:net';
import { pipeline } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';

/** From the program to the broker, or back. */
export type Direction = 'up' | 'down';

export interface Faults {
  cutAfter?: { bytes: number; direction: Direction }; // a connection is cut after so many
  cutAt?: string; // and where it would pass this on
  delay?: number; // ms that all is late by
  silent?: boolean; // accepts, and neither says nor forwards anything
  closing?: boolean; // accepts, and closes at once
}

interface Line { program: Socket; broker?: Socket; held?: Direction }

export class Proxy {
  faults: Faults = {}; // what befalls connections that come from now on
  next: Faults[] = []; // and the next ones instead, each its own
  accepted = 0; // connections so far
  readonly forwarded = { up: 0, down: 0 }; // bytes so far
  readonly #lines = new Set<Line>();
  readonly #server = createServer((program) => this.#accept(program));
  #port = 0;

  private constructor(readonly target: URL, readonly host: string) {}

  /** A proxy in front of the broker of this URL, on a free port. */
  static async start(url: string, host = '127.0.0.1'): Promise<Proxy> {
    const proxy = new Proxy(new URL(url), host);
    await proxy.listen();
    return proxy;
  }

  /** The broker's URL, through this proxy. */
  get url(): string {
    return Object.assign(new URL(this.target), { host: `${this.host}:${this.#port}` }).href;
  }

  /** Listens, again after refuse(). */
  async listen(): Promise<void> {
    this.#server.listen(this.#port, this.host.replace(/[[\]]/g, ''));
    await once(this.#server, 'listening');
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  /** Refuses connections from now on, and cuts those that are there. */
  async refuse(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = once(this.#server.close(), 'close');
    this.cut();
    await closed;
  }

  /** Cuts the connections that are there: with RST, or with FIN. */
  cut(how: 'RST' | 'FIN' = 'RST'): void {
    for (const { program, broker } of this.#lines) {
      if (how === 'FIN') program.end();
      else program.resetAndDestroy();
      broker?.destroy();
    }
  }

  /** Holds back, on the connections that are there, what goes in one direction from now on. */
  hold(direction: Direction): void {
    for (const line of this.#lines) line.held = direction;
  }

  #accept(program: Socket): void {
    this.accepted++;
    const faults = this.next.shift() ?? this.faults;
    const line: Line = { program };
    this.#lines.add(line);
    program.setNoDelay().on('error', () => {}).once('close', () => {
      this.#lines.delete(line);
      line.broker?.destroy();
    });
    if (faults.closing) program.resume().end();
    if (faults.closing || faults.silent) return;
    const broker = createConnection(Number(this.target.port), this.target.hostname).setNoDelay();
    line.broker = broker;
    const end = () => program.destroy();
    pipeline(program, (source) => this.#pass(source, 'up', line, faults), broker, end);
    pipeline(broker, (source) => this.#pass(source, 'down', line, faults), program, end);
  }

  async *#pass(source: AsyncIterable<Buffer>, direction: Direction, line: Line, faults: Faults) {
    const { cutAfter, cutAt, delay } = faults;
    let left = cutAfter?.direction === direction ? cutAfter.bytes : Infinity;
    for await (const bytes of source) {
      if (line.held === direction) await new Promise(() => {});
      if (cutAt && bytes.includes(cutAt)) left = Math.min(left, bytes.indexOf(cutAt));
      const passed = bytes.subarray(0, left);
      left -= passed.length;
      this.forwarded[direction] += passed.length;
      if (delay) await pause(delay, undefined, { ref: false });
      yield passed;
      if (left === 0) line.program.resetAndDestroy();
    }
  }
}
