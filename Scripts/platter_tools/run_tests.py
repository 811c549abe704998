"""Runs tidy, the Swift tests and the tests of the scripts; what Scripts/test does once all is installed."""

import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import xml.etree.ElementTree

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
# The lines of Swift Testing; NOISE is what says nothing when all goes well.
ENDED = re.compile(r"^\S+ Test (?!run )(?P<name>.*?)(?: with \d+ test cases?)? (?P<how>passed|failed) after ")
STARTED = re.compile(r"^\S+ Test (?!run |case )(?P<name>.*) started\.$")
SKIPPED = re.compile(r"^\S+ Test (?P<name>.*) skipped(?:\.$|: )")
EVENT = re.compile(r"^[◇✔✘➜━] ")
# Known issues, and the start of a test case one of whose arguments has several lines.
QUIET_BLOCK = re.compile(r"^━ Test .* recorded a known issue|^◇ (?!.*started\.$)")
NOISE = re.compile(r"^(?:◇ |↳ T|[✔━] (?:Test|Suite) |\[\d+/\d+\] |Build complete)")


class Counts:
    def __init__(self):
        self.passed, self.failed, self.skipped = 0, 0, 0
        self.running = collections.Counter()

    def add(self, passed=0, failed=0, skipped=0):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped

    def note(self, line):
        """Counts one line of Swift Testing."""
        if started := STARTED.match(line):
            self.running[started["name"]] += 1
        elif ended := ENDED.match(line):
            self.running[ended["name"]] -= 1
            self.running += collections.Counter()
            self.add(passed=ended["how"] == "passed", failed=ended["how"] == "failed")
        elif SKIPPED.match(line):
            self.add(skipped=1)

    def line(self):
        tail = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{tail}"


class Shown:
    """Decides which lines of Swift Testing to show: not those of success, nor the text of known issues."""

    def __init__(self):
        self.in_block = False

    def wants(self, line):
        if QUIET_BLOCK.match(line):
            self.in_block = True
        elif EVENT.match(line):
            self.in_block = False
        return not self.in_block and not NOISE.match(line)


def step(text):
    print(f"== {text}", flush=True)


def tidy(counts):
    step("tidy")
    failed = subprocess.run([os.path.join(TOP, "Scripts", "tidy")], check=False).returncode != 0
    counts.add(passed=not failed, failed=failed)


def swift(verb, options):
    """A `swift` command line. Optimised, but with assertions: the tests take less than half the time."""
    optimised = ["-c", "release", "--scratch-path", os.path.join(TOP, ".build", "tests")]
    for flag in ("-enable-testing", "-assert-config", "Debug"):
        optimised += ["-Xswiftc", flag]
    return ["swift", verb, "--package-path", TOP] + ([] if options.debug else optimised)


def build(options):
    """Builds the tests, quietly unless it fails."""
    step("build (minutes the first time)")
    run = subprocess.run(
        swift("build", options) + ["--build-tests"], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if run.returncode:
        print(run.stdout, flush=True)
    return run.returncode == 0


def swift_tests(counts, options):
    """Runs the Swift tests and shows what is not plain success."""
    step("swift test" + (f" --filter {options.filter}" if options.filter else ""))
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report.xml")
        command = swift("test", options) + ["--skip-build", "--disable-xctest", "--xunit-output", report]
        command += ["--filter", options.filter] if options.filter else []
        seen, status = watch(command, options.timeout)
        try:
            with open(report, encoding="utf-8") as file:
                seen = from_report(file.read())
        except (OSError, xml.etree.ElementTree.ParseError):
            # No report, or half of one: the run did not reach its end, so the output has to tell.
            names = ", ".join(sorted(seen.running)) or "no test"
            print(f"\nthe run broke off with status {status} during {names}")
    failed = seen.failed + len(list(seen.running.elements()))
    if status and not failed:
        print(f"swift test ended with status {status}")
        failed = 1
    counts.add(seen.passed, failed, seen.skipped)


def watch(command, timeout):
    """Runs Swift Testing; shows its output without the lines of success, and counts along."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True)
    timer = threading.Timer(timeout, os.killpg, [process.pid, 9])
    timer.start()
    seen, shown = Counts(), Shown()
    for line in process.stdout:
        seen.note(line)
        if shown.wants(line):
            print(line, end="", flush=True)
    status = process.wait()
    timer.cancel()
    return seen, status


def from_report(text):
    """The counts of a finished run; output of tests cannot garble these."""
    counts = Counts()
    for case in xml.etree.ElementTree.fromstring(text).iter("testcase"):
        failed, skipped = case.find("failure") is not None, case.find("skipped") is not None
        counts.add(not failed and not skipped, failed, skipped)
    return counts


def script_tests(counts, options):
    step("tests of the scripts")
    folder = os.path.join(TOP, "Tests", "Scripts")
    suite = unittest.TestLoader().discover(folder)
    if options.filter:
        suite = unittest.TestSuite(t for t in flat(suite) if re.search(options.filter, t.id()))
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=1).run(suite)
    bad = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    counts.add(
        passed=result.testsRun - bad - len(result.skipped), failed=bad, skipped=len(result.skipped))


def flat(suite):
    for item in suite:
        yield from flat(item) if isinstance(item, unittest.TestSuite) else [item]


def options():
    parser = argparse.ArgumentParser(
        prog="Scripts/test", description="Runs tidy and all tests; the last line is the count.")
    parser.add_argument("filter", nargs="?", help="run only the tests whose names match this expression")
    parser.add_argument("--long", action="store_true", help="also what takes long: more seeds, larger images")
    parser.add_argument("--debug", action="store_true", help="without optimisation: quicker to build again")
    parser.add_argument("--timeout", type=int, help="seconds after which the Swift tests are ended")
    chosen = parser.parse_args()
    chosen.timeout = chosen.timeout or (4 * 3600 if chosen.long else 2700)
    return chosen


def main():
    chosen, counts, began = options(), Counts(), time.monotonic()
    if chosen.long:
        os.environ["PLATTER_LONG_TESTS"] = "1"
    if chosen.debug:
        os.environ["PLATTER_DEBUG_TESTS"] = "1"
    os.environ.setdefault("SWIFT_BACKTRACE", "enable=no")
    # Otherwise all tests start at once, and those that wait for a thread run into their time limits.
    os.environ.setdefault("SWT_EXPERIMENTAL_MAXIMUM_PARALLELIZATION_WIDTH", str(os.cpu_count() or 2))
    if not chosen.filter:
        tidy(counts)
    if build(chosen):
        swift_tests(counts, chosen)
        script_tests(counts, chosen)
    else:
        counts.add(failed=1)
    if counts.passed + counts.failed == 0:
        print("nothing was tested")
        counts.add(failed=1)
    step(f"{time.monotonic() - began:.0f} seconds")
    print(counts.line(), flush=True)
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
