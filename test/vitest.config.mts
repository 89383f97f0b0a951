import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    globalSetup: 'test/support/setup.ts',
    isolate: false, // the files of a worker share what they import
    pool: 'threads', // they end with the main process, however that ends
    maxWorkers: 2 * availableParallelism(), // tests wait more than they work
    testTimeout: 900_000, // longer than anything in a test waits, which then says for what
    hookTimeout: 900_000,
    unstubEnvs: true,
    restoreMocks: true,
    cache: false,
  },
});
