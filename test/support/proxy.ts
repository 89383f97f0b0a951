// A TCP proxy between a program and the broker that does what networks do: cut, refuse, keep silent, hold, delay, drip.
import { once } from 'node:events';
import { createConnection, createServer, type AddressInfo, type Socket } from 'node:net';
import { Transform } from 'node:stream';

/** From the program to the broker, or back. */
export type Direction = 'up' | 'down';

export interface Faults {
  /** Bytes in that direction after which a connection is cut. */
  cutAfter?: { bytes: number; direction: Direction };
  /** Milliseconds that all is late by. */
  delay?: number;
  /** Milliseconds for each byte. */
  drip?: number;
  /** Accepts, and neither says nor forwards anything. */
  silent?: boolean;
  /** Accepts, and closes at once. */
  closing?: boolean;
  /** Milliseconds after which a connection is cut. */
  lifetime?: number;
}

interface Line {
  program: Socket;
  broker: Socket | undefined;
}

export class Proxy {
  /** What is done to connections that come from now on; what holds or cuts those that are there is a method. */
  faults: Faults = {};
  /** What is done to the next ones instead, to each its own. */
  next: Faults[] = [];
  /** Bytes forwarded so far. */
  readonly forwarded = { up: 0, down: 0 };
  /** Connections accepted so far. */
  accepted = 0;
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
    const url = new URL(this.target);
    url.host = `${this.host}:${this.#port}`;
    return url.href;
  }

  /** Listens, again after refuse(). */
  async listen(): Promise<void> {
    this.#server.listen(this.#port, this.host.replace(/[[\]]/g, ''));
    await once(this.#server, 'listening');
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  /** Refuses connections from now on, and cuts those that are there. */
  async refuse(): Promise<void> {
    this.#server.close();
    this.cut();
    await once(this.#server, 'close');
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
    for (const { program, broker } of this.#lines) (direction === 'up' ? program : broker)?.unpipe();
  }

  async end(): Promise<void> {
    if (this.#server.listening) await this.refuse();
  }

  #accept(program: Socket): void {
    this.accepted++;
    const faults = this.next.shift() ?? this.faults;
    const { silent, closing, lifetime } = faults;
    const broker = silent || closing ? undefined : createConnection(Number(this.target.port), this.target.hostname);
    const line = { program, broker };
    this.#lines.add(line);
    const end = () => {
      this.#lines.delete(line);
      program.destroy();
      broker?.destroy();
    };
    for (const socket of [program, broker]) socket?.setNoDelay().on('error', () => {}).once('close', end);
    if (closing) program.resume().end();
    if (lifetime) setTimeout(() => program.resetAndDestroy(), lifetime).unref();
    if (!broker) return;
    program.pipe(this.#filter('up', program, faults)).pipe(broker);
    broker.pipe(this.#filter('down', program, faults)).pipe(program);
  }

  #filter(direction: Direction, program: Socket, { cutAfter, delay = 0, drip }: Faults): Transform {
    const { forwarded } = this;
    let left = cutAfter?.direction === direction ? cutAfter.bytes : Infinity;
    return new Transform({
      async transform(this: Transform, bytes: Buffer, _, done) {
        const passed = bytes.subarray(0, left);
        left -= passed.length;
        forwarded[direction] += passed.length;
        const parts = drip ? [...passed].map((byte) => Buffer.of(byte)) : [passed];
        for (const part of parts) {
          if (drip || delay) await new Promise((resolve) => setTimeout(resolve, drip ?? delay).unref());
          if (program.destroyed) return done();
          this.push(part);
        }
        if (left === 0) setImmediate(() => program.resetAndDestroy());
        done();
      },
    });
  }
}
