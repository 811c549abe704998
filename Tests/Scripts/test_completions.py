"""The completion scripts complete commands, options and values."""

import subprocess
import unittest

from program import commands, long_options, platter, run

HARNESS = """
source /dev/stdin <<<"$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_platter
echo "${COMPREPLY[*]}"
"""


class Completions(unittest.TestCase):
    def complete(self, *words):
        return run("bash", "-c", HARNESS, "bash", platter("--completions", "bash"), *words).split()

    def test_bash_commands(self):
        self.assertEqual(self.complete("platter", "cr"), ["create"])
        self.assertLessEqual(set(commands()), set(self.complete("platter", "")))

    def test_bash_options_and_values(self):
        self.assertEqual(self.complete("platter", "info", "--backing-c"), ["--backing-chain"])
        self.assertEqual(self.complete("platter", "create", "-f", "ra"), ["raw"])
        self.assertEqual(self.complete("platter", "info", "--output", "=", "j"), ["json"])
        self.assertEqual(self.complete("platter", "info", "disk"), [])

    def test_every_option_is_in_every_script(self):
        for shell, form in (("bash", "--{}"), ("zsh", "--{}"), ("fish", "-l {} ")):
            script = platter("--completions", shell)
            for command in commands():
                for option in long_options(command):
                    self.assertIn(form.format(option[2:]), script, f"{shell}, {command}")

    def test_unknown_shell(self):
        with self.assertRaises(subprocess.CalledProcessError) as caught:
            platter("--completions", "tcsh")
        self.assertEqual(caught.exception.returncode, 1)
        self.assertIn("expects 'bash', 'zsh' or 'fish'", caught.exception.stderr)


if __name__ == "__main__":
    unittest.main()
