"""The closing line of Scripts/test counts what really happened."""

import os
import sys
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path.insert(0, os.path.join(TOP, "Scripts"))
from platter_tools import run_tests  # noqa: E402

OUTPUT = """\
◇ Test run started.
◇ Suite "My suite" started.
◇ Test good() started.
◇ Test "named one" started.
◇ Test dies() started.
➜ Test off() skipped: "no peer"
◇ Test case passing 1 argument a → 2 to "named one" started.
✔ Test good() passed after 0.001 seconds.
✘ Test "named one" recorded an issue with 1 argument a → 2 at T.swift:4:63: Expectation failed
✘ Test "named one" with 3 test cases failed after 0.001 seconds with 1 issue.
"""
REPORT = """<testsuites><testsuite name="TestResults">
<testcase classname="T" name="free()" time="0.1" />
<testcase classname="T" name="also()" time="0.1" />
<testcase classname="T" name="off()"><skipped>no peer</skipped></testcase>
<testcase classname="T" name="bad()"><failure message="a" /><failure message="b" /></testcase>
</testsuite></testsuites>"""


class Counting(unittest.TestCase):
    def test_output_of_a_run_that_broke_off(self):
        counts = run_tests.Counts()
        for line in OUTPUT.splitlines(keepends=True):
            counts.note(line)
        self.assertEqual((counts.passed, counts.failed, counts.skipped), (1, 1, 1))
        self.assertEqual(list(counts.running), ["dies()"])

    def test_report(self):
        self.assertEqual(run_tests.from_report(REPORT).line(), "2 passed, 1 failed, 1 skipped")

    def test_line_without_skips(self):
        counts = run_tests.Counts()
        counts.add(passed=3)
        self.assertEqual(counts.line(), "3 passed, 0 failed")

    def test_failures_are_shown(self):
        self.assertEqual([line[0] for line in self.shown(OUTPUT)], ["➜", "✘", "✘"])

    def test_known_issues_are_not_shown(self):
        text = "━ Test a() recorded a known issue at T.swift:8:53: told\nmore\n↳ why\n"
        text += "✘ Test b() failed after 1 s\nx\n"
        self.assertEqual(self.shown(text), ["✘ Test b() failed after 1 s", "x"])

    def test_arguments_of_several_lines_are_not_shown(self):
        text = "◇ Test case passing 1 argument text → \"a\nb\" to \"name\" started.\n"
        text += "✔ Test c() passed\nshown\n"
        self.assertEqual(self.shown(text), ["shown"])

    def shown(self, text):
        shown = run_tests.Shown()
        return [line for line in text.splitlines() if shown.wants(line)]


if __name__ == "__main__":
    unittest.main()
