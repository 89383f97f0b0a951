import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    pool: 'threads', // end with the main process, however that ends
    maxWorkers: 12, // tests wait more than they work
    testTimeout: 120_000,
    hookTimeout: 180_000,
    watch: false, // the scripts are built once for a run
    cache: false,
    projects: [
      { extends: true, test: { name: 'unit', include: ['test/unit/*.test.ts'] } },
      { extends: true, test: { name: 'broker', include: ['test/{scripts,faults}/*.test.ts'], globalSetup: 'test/support/setup.ts' } },
    ],
  },
});
