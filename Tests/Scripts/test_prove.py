"""Tests of the frame of Scripts/prove: tables, figures, and what counts as a proof."""

import os
import shutil
import sys
import tempfile
import unittest

TOOLS = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))), "Scripts", "platter_tools")
sys.path.insert(0, TOOLS)

import fault_cases  # noqa: E402
import prove  # noqa: E402
import prove_faults  # noqa: E402
from program import PLATTER  # noqa: E402


class TableTests(unittest.TestCase):
    PAGE = "a\n<!-- prove x -->\nold\n<!-- end x -->\nb\n<!-- prove y -->\nkept\n<!-- end y -->\n"

    def test_only_its_own_table_changes(self):
        page = prove.with_table(self.PAGE, "x", [prove.Row("x", "vdi", 1234, 0, 5.4)])
        self.assertIn("<!-- prove x -->\n" + prove.HEAD + "| vdi | 1,234 | 0 | 5 |\n<!-- end x -->", page)
        self.assertNotIn("old", page)
        self.assertIn("<!-- prove x -->\nThen.\n\n" + prove.HEAD, prove.with_table(page, "x", [], "Then."))
        self.assertIn("kept", page)

    def test_a_page_without_markers(self):
        with self.assertRaises(prove.PartFailure):
            prove.with_table(self.PAGE, "z", [])

    def test_every_part_has_its_markers_and_a_line_of_help(self):
        with open(prove.PAGE, encoding="utf-8") as file:
            page = file.read()
        self.assertIn("crash", prove.parts())
        for part in prove.parts():
            prove.with_table(page, part, [])
            self.assertRegex(prove.help_of_parts(), rf"  {part} +\S.*[a-z]")


class FigureTests(unittest.TestCase):
    def test_equal_rows_add_up(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "figures")
            with open(path, "w", encoding="utf-8") as file:
                file.write("crash\tvdi\t3\t0\t1.5\ncrash\tqed\t1\t1\t1\ncrash\tvdi\t4\t0\t2\n")
            rows = prove.read_figures(path)
        self.assertEqual(
            rows, [prove.Row("crash", "qed", 1, 1, 1), prove.Row("crash", "vdi", 7, 0, 3.5)])

    def test_no_file_is_no_rows(self):
        self.assertEqual(prove.read_figures("/nonexistent/figures"), [])

    def test_what_proves(self):
        self.assertTrue(prove.Row("x", "a", 1, 0, 0).proves)
        self.assertFalse(prove.Row("x", "a", 0, 0, 0).proves)
        self.assertFalse(prove.Row("x", "a", 9, 1, 0).proves)


class FaultTests(unittest.TestCase):
    def test_numbers_are_spread_evenly(self):
        self.assertEqual(prove_faults.chosen(3, 5), [1, 2, 3])
        self.assertEqual(prove_faults.chosen(100, 3), [1, 50, 100])
        self.assertEqual(prove_faults.chosen(0, 3), [])

    def test_events_are_those_of_the_source(self):
        events = prove_faults.events()
        self.assertIn("l2_update", events)
        self.assertGreater(len(events), 45)

    def test_every_command_that_changes_an_image_has_a_case(self):
        commands = {case.command.split()[1] for case in fault_cases.cases()}
        changing = {"amend", "bitmap", "check", "commit", "convert", "create", "io", "rebase", "resize",
                    "snapshot", "stream"}
        self.assertEqual(commands, changing)
        names = [case.name for case in fault_cases.cases()]
        self.assertEqual(len(names), len(set(names)))


class BuiltContext(prove.Context):
    """The context of a short run with the program that was just built."""

    def platter(self):
        return PLATTER


@unittest.skipUnless(shutil.which("strace") or os.environ.get("CI") == "true", "needs strace")
class SystemCallTests(unittest.TestCase):
    """A sample of what `Scripts/prove faults` does with all commands and formats."""

    COMMANDS = ("convert, vdi", "commit, qcow2 cluster_size=4k", "resize, vhdx block_size=1M", "check -r")

    def test_failing_calls(self):
        with tempfile.TemporaryDirectory() as folder:
            bench = prove_faults.Bench(BuiltContext(False, folder))
            cases = {case.name: case for case in fault_cases.cases()}
            prove_faults.control(bench, cases["convert, vdi"])
            for name in self.COMMANDS:
                statuses = list(prove_faults.system_calls(bench, cases[name]))
                self.assertTrue(any(statuses), f"{name}: no fault had an effect")
            self.assertEqual(bench.violations, [])


if __name__ == "__main__":
    unittest.main()
