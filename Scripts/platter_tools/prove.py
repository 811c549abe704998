"""Runs the parts of the proof and writes their rows into docs/reliability.md; what Scripts/prove does.

A part NAME is a module `prove_NAME.py` in this folder: its docstring is the line of help, and
`rows(context)` yields or returns `Row`s. The page has a table for each part, between two markers:
`<!-- prove NAME -->` and `<!-- end NAME -->`.
"""

import argparse
import dataclasses
import importlib
import os
import re
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
PAGE = os.path.join(TOP, "docs", "reliability.md")
HEAD = "| What | Tried | Violations | Seconds |\n|---|---|---|---|\n"


@dataclasses.dataclass
class Row:
    """One line of a table: how often something was tried, and how often the promise did not hold."""
    part: str
    what: str
    tried: int
    violations: int
    seconds: float

    def line(self):
        return f"| {self.what} | {self.tried:,} | {self.violations:,} | {self.seconds:.0f} |"

    @property
    def proves(self):
        """Nothing tried proves nothing."""
        return self.tried > 0 and self.violations == 0


@dataclasses.dataclass
class Context:
    """What a part gets: how much to do, a folder that is removed afterwards, and the programs."""
    is_long: bool
    folder: str
    program: str

    def platter(self):
        """The path of the release build of the program; builds it where it is missing."""
        if self.program:
            return self.program
        done = subprocess.run([os.path.join(TOP, "Scripts", "platter"), "--version"], check=False,
                              stdout=subprocess.DEVNULL)
        if done.returncode:
            raise PartFailure("the program cannot be built")
        return os.path.join(TOP, ".build", "shipped", "release", "platter")

    def swift_tests(self, expression):
        """Runs the Swift tests that match, and returns the rows that they noted (`ProofFigures`)."""
        figures = os.path.join(self.folder, "figures")
        variables = dict(os.environ, PLATTER_PROOF_FIGURES=figures)
        command = [os.path.join(TOP, "Scripts", "test"), expression] + (["--long"] if self.is_long else [])
        status = subprocess.run(command, env=variables, check=False).returncode
        rows = read_figures(figures)
        if status and not any(row.violations for row in rows):
            raise PartFailure(f"the tests '{expression}' failed")
        return rows


class PartFailure(Exception):
    """A part that could not do its work."""


def read_figures(path):
    """The rows of a file of figures: part, what, tried, violations, seconds, by tabs. The same ones add up."""
    rows = {}
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        part, what, tried, violations, seconds = line.split("\t")
        row = rows.setdefault((part, what), Row(part, what, 0, 0, 0))
        row.tried += int(tried)
        row.violations += int(violations)
        row.seconds += float(seconds)
    return [rows[key] for key in sorted(rows)]


def parts():
    """The names of the parts, by their modules."""
    found = (re.fullmatch(r"prove_(\w+)\.py", name) for name in sorted(os.listdir(HERE)))
    return [match[1] for match in found if match]


def with_table(page, part, rows):
    """The page with this table in place of the one between the part's markers."""
    begin, end = f"<!-- prove {part} -->\n", f"<!-- end {part} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise PartFailure(f"docs/reliability.md has no markers of '{part}'")
    return before + begin + HEAD + "".join(row.line() + "\n" for row in rows) + end + after


def write(part, rows):
    with open(PAGE, encoding="utf-8") as file:
        page = file.read()
    page = with_table(page, part, rows)
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(page)


def run(part, context):
    """Runs a part and returns its rows; the page gets them where that is wanted."""
    print(f"== {part}", flush=True)
    began = time.monotonic()
    rows = []
    for row in importlib.import_module(f"prove_{part}").rows(context):
        print(row.line(), flush=True)
        rows.append(row)
    print(f"   {time.monotonic() - began:.0f} seconds", flush=True)
    return rows


def options(arguments):
    parser = argparse.ArgumentParser(prog="Scripts/prove", description="Proves what docs/reliability.md says.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(parts())}; all without one")
    parser.add_argument("--short", action="store_true", help="minutes, not hours; leaves the page as it is")
    parser.add_argument("--program", default="", help="this program instead of the release build")
    chosen = parser.parse_args(arguments)
    for part in chosen.parts:
        if part not in parts():
            parser.error(f"no part '{part}'")
    return chosen


def main(arguments=None):
    chosen = options(arguments)
    sys.path.insert(0, HERE)
    # The parts import this module by its name, and must get the one that runs.
    sys.modules.setdefault("prove", sys.modules[__name__])
    failed = False
    for part in chosen.parts or parts():
        with tempfile.TemporaryDirectory(prefix="prove-") as folder:
            try:
                rows = run(part, Context(not chosen.short, folder, chosen.program))
                if not chosen.short:
                    write(part, rows)
            except PartFailure as failure:
                print(f"prove: {part}: {failure}", file=sys.stderr)
                rows = []
        failed |= not rows or not all(row.proves for row in rows)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
