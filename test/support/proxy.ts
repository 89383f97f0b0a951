// A TCP proxy between a program and the broker that fails as networks do.
import { once } from 'node:events';
import { Socket, createServer } from 'node:net';
import { pipeline } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { freePort } from './machine';

type Direction = 'up' | 'down'; // from the program to the broker, or back

export interface Faults {
  cutAfter?: number; // bytes in both directions, after which a connection is cut
  cutAt?: string; // text in place of which it is cut
  delay?: number; // ms that all is late by
  silent?: boolean; // accepts, and neither says nor forwards anything
  closing?: boolean; // accepts, and closes at once
}

interface Line {
  program: Socket;
  broker: Socket;
  faults: Faults;
  left: number; // bytes until it is cut
  held?: Direction;
}

export class Proxy {
  faults: Faults = {}; // what befalls connections that come from now on
  accepted = 0; // connections so far
  readonly forwarded = { up: 0, down: 0 }; // bytes so far
  readonly url: string; // of the broker, through this proxy
  readonly #target: URL;
  readonly #lines = new Set<Line>();
  readonly #server = createServer((program) => this.#accept(program));

  private constructor(url: string, address: string) {
    this.#target = new URL(url);
    this.url = Object.assign(new URL(url), { host: address }).href;
  }

  static async start(url: string, host = '127.0.0.1'): Promise<Proxy> {
    const proxy = new Proxy(url, `${host}:${await freePort()}`);
    await proxy.listen();
    return proxy;
  }

  async listen(): Promise<void> {
    const { port, hostname } = new URL(this.url);
    this.#server.listen(Number(port), hostname.replace(/[[\]]/g, ''));
    await once(this.#server, 'listening');
  }

  /** Refuses connections from now on, and cuts those that are there. */
  async refuse(): Promise<void> {
    this.#server.close();
    this.cut();
  }

  cut(how: 'RST' | 'FIN' = 'RST'): void {
    for (const { program, broker } of this.#lines) {
      if (how === 'FIN') program.end();
      else program.resetAndDestroy();
      broker.destroy();
    }
  }

  /** Holds back, on the connections that are there, what goes in one direction from now on. */
  hold(direction: Direction): void {
    for (const line of this.#lines) line.held = direction;
  }

  /** Says something to the programs in the broker's place, which must be silent meanwhile. */
  inject(bytes: Buffer): void {
    for (const { program } of this.#lines) program.write(bytes);
  }

  #accept(program: Socket): void {
    this.accepted++;
    const { faults } = this;
    const broker = new Socket().setNoDelay();
    const line: Line = { program, broker, faults, left: faults.cutAfter ?? Infinity };
    this.#lines.add(line);
    program.setNoDelay().on('error', () => {});
    program.once('close', () => {
      this.#lines.delete(line);
      broker.destroy();
    });
    if (faults.closing) program.resume().end();
    if (faults.closing || faults.silent) return;
    broker.connect(Number(this.#target.port), this.#target.hostname);
    const end = () => program.destroy();
    pipeline(program, (source) => this.#pass(source, 'up', line), broker, end);
    pipeline(broker, (source) => this.#pass(source, 'down', line), program, end);
  }

  async *#pass(source: AsyncIterable<Buffer>, direction: Direction, line: Line) {
    const { faults } = line;
    for await (const bytes of source) {
      if (line.held === direction) await new Promise(() => {});
      if (faults.cutAt && bytes.includes(faults.cutAt)) line.left = bytes.indexOf(faults.cutAt);
      const passed = bytes.subarray(0, line.left);
      line.left -= passed.length;
      this.forwarded[direction] += passed.length;
      if (faults.delay) await pause(faults.delay, undefined, { ref: false });
      yield passed;
      if (line.left === 0) line.program.resetAndDestroy();
    }
  }
}
