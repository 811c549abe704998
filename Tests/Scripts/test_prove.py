"""Tests of the frame of Scripts/prove: tables, figures, and what counts as a proof."""

import os
import sys
import tempfile
import unittest

TOOLS = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))), "Scripts", "platter_tools")
sys.path.insert(0, TOOLS)

import prove  # noqa: E402


class TableTests(unittest.TestCase):
    PAGE = "a\n<!-- prove x -->\nold\n<!-- end x -->\nb\n<!-- prove y -->\nkept\n<!-- end y -->\n"

    def test_only_its_own_table_changes(self):
        page = prove.with_table(self.PAGE, "x", [prove.Row("x", "vdi", 1234, 0, 5.4)])
        self.assertIn("<!-- prove x -->\n" + prove.HEAD + "| vdi | 1,234 | 0 | 5 |\n<!-- end x -->", page)
        self.assertNotIn("old", page)
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


if __name__ == "__main__":
    unittest.main()
