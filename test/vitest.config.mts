import { availableParallelism } from 'node:os';
import { BaseSequencer, type TestSpecification } from 'vitest/node';
import { defineConfig } from 'vitest/config';

/** By name, and so the faults first, which wait longest. */
class Sequencer extends BaseSequencer {
  override async sort(files: TestSpecification[]) {
    return files.sort((a, b) => a.moduleId.localeCompare(b.moduleId));
  }
}

export default defineConfig({
  test: {
    globalSetup: 'test/support/setup.ts',
    isolate: false, // the files of a worker share what they import
    pool: 'threads', // they end with the main process, however that ends
    maxWorkers: 3 * availableParallelism(), // tests wait more than they work
    sequence: { sequencer: Sequencer },
    testTimeout: 900_000, // longer than anything in a test waits, which then says for what
    hookTimeout: 900_000,
    unstubEnvs: true,
    restoreMocks: true,
    watch: false, // the scripts are built once for a run
    cache: false,
  },
});
