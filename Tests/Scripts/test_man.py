"""The pages of the commands become man pages; that of the program tells of all of them."""

import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import unittest

from program import TOP, platter

LOADER = importlib.machinery.SourceFileLoader("man", os.path.join(TOP, "Scripts", "man"))
man = importlib.util.module_from_spec(importlib.util.spec_from_loader("man", LOADER))
LOADER.exec_module(man)
PAGES = os.path.join(TOP, "docs", "commands")


PAGE = """\
# platter map

Tell where. More.

## Options

- `-s N`, `--start N`: from
  *here*.
- plain

```
.a -b
```

| A | B |
|---|---|
| 1 | one |

'x [info](info.md)
"""


def page(name):
    with open(os.path.join(PAGES, name + ".md"), encoding="utf-8") as file:
        return file.read()


def options_in_page(name):
    """The options at the head of the list items under Options."""
    section = page(name).partition("\n## Options\n")[2].partition("\n## ")[0]
    heads = re.findall(r"(?m)^- ((?:`[^`]+`(?:, )?)+):", section)
    return {option for head in heads for option in re.findall(r"`(--?[\w-]+)", head)}


def options_in_help(text):
    section = text.partition("\nOptions:\n")[2].partition("\n\n")[0]
    heads = re.findall(r"(?m)^  (?:    )?((?:-\w, )?--[\w-]+|-\w)\b", section)
    return {option for head in heads for option in head.split(", ")}


class Pages(unittest.TestCase):
    def test_options_before_the_command(self):
        self.assertEqual(options_in_page("platter"), options_in_help(platter("--help")))

    def test_overview_names_every_page(self):
        names = {name[:-3] for name in os.listdir(PAGES)} - {"platter"}
        self.assertEqual(set(re.findall(r"\]\((\w+)\.md\)", page("platter"))), names)

    def test_groff_has_no_complaint(self):
        if not shutil.which("groff"):
            self.assertNotEqual(os.environ.get("CI"), "true", "groff is missing")
            self.skipTest("groff is missing")
        for name in sorted(name[:-3] for name in os.listdir(PAGES)):
            run = subprocess.run(
                ["groff", "-man", "-Tutf8", "-ww"], input=man.manual(name, page(name)).encode(),
                capture_output=True, check=True)
            self.assertEqual(run.stderr.decode(), "", name)


class Conversion(unittest.TestCase):
    def test_page(self):
        text = man.manual("map", PAGE)
        self.assertIn(".SH NAME\nplatter\\-map \\- tell where\n", text)
        self.assertIn(".TP\n\\fB\\-s N\\fR, \\fB\\-\\-start N\\fR\nfrom \\fIhere\\fR.\n", text)
        self.assertIn(".IP \\(bu 2\nplain\n", text)
        self.assertIn(".nf\n\\&.a \\-b\n.fi\n", text)
        self.assertIn(".TP\n1\none\n", text)
        self.assertIn("\n\\(aqx \\fBplatter\\-info\\fR(1)\n", text)

    def test_unfit_pages(self):
        for text in ("# platter info\n\nWrong title.\n", "# platter map\n\n## No sentence\n",
                     "# platter map\n\nX.\n\n| A | B | C |\n|---|---|---|\n| 1 | 2 | 3 |\n"):
            with self.assertRaises(man.Unfit):
                man.manual("map", text)


if __name__ == "__main__":
    unittest.main()
