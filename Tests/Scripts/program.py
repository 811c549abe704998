"""The program as Scripts/test has just built it, for the tests here."""

import os
import re
import subprocess

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
BUILT = os.path.join(TOP, ".build", "debug" if os.environ.get("PLATTER_DEBUG_TESTS") else "tests/release")
PLATTER = os.path.join(BUILT, "platter")


def platter(*arguments, **more):
    """Runs the program; answers its standard output, and raises where it fails."""
    return run(PLATTER, *arguments, **more)


def run(*command, **more):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600, **more).stdout


def commands():
    """The names of the subcommands, from the program's help."""
    text = platter("--help").partition("\nCommands:\n")[2].partition("\n\n")[0]
    return [line.split()[0] for line in text.split("\n") if line.startswith("  ") and line[2] != " "]


def long_options(command):
    """The long options of a subcommand, from its help, without those that are only there to be refused."""
    text = platter(command, "--help").partition("\nOptions:\n")[2].partition("\n\n")[0]
    rows = re.split(r"\n(?=  (?:    )?-)", "\n" + text)
    return {re.search(r"--[\w-]+", row)[0] for row in rows if "--" in row and not is_refused(row)}


def is_refused(row):
    return re.search(r"\((?:not supported yet\)|refused: )", " ".join(row.split())) is not None
