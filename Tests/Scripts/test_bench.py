"""Scripts/bench measures, compares results, and notices when they differ."""

import os
import subprocess
import tempfile
import unittest

from program import PLATTER, TOP

BENCH = os.path.join(TOP, "Scripts", "bench")


class Bench(unittest.TestCase):
    def bench(self, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            return subprocess.run(
                [BENCH, "--quick", "--dir", folder, *arguments], stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, timeout=600, check=False)

    def test_rows(self):
        run = self.bench("--program", PLATTER, "--rows", "info,map,qcow2-raw")
        self.assertEqual(run.returncode, 0, run.stdout)
        for title in ("start-up: `info`", "`map --output=json`, 64 GiB, fragmented", "qcow2 → raw"):
            self.assertIn("| " + title, run.stdout)

    def test_program_that_fails(self):
        run = self.bench("--program", "/bin/false", "--rows", "info")
        self.assertEqual(run.returncode, 1, run.stdout)
        self.assertIn("FAILED", run.stdout)

    def test_program_that_does_nothing(self):
        run = self.bench("--program", "/bin/true", "--rows", "info,check,map,raw-qcow2")
        self.assertEqual(run.returncode, 1, run.stdout)
        self.assertEqual(run.stdout.count("FAILED"), 4, run.stdout)

    def test_unknown_row(self):
        self.assertEqual(self.bench("--rows", "nonsense").returncode, 2)


if __name__ == "__main__":
    unittest.main()
