"""The README tells the truth: its commands print what it shows, its example compiles and runs.

`python3 Tests/Scripts/test_readme.py --write` puts in what the commands and the example are now.
"""

import os
import re
import subprocess
import sys
import tempfile
import unittest

from program import BUILT, PLATTER, TOP, platter, run

README = os.path.join(TOP, "README.md")
EXAMPLE = os.path.join(TOP, "Tests", "ReadmeExample", "main.swift")
JOBS = os.path.join(TOP, "docs", "jobs.md")
JOBS_EXAMPLE = os.path.join(TOP, "Tests", "JobsExample", "main.swift")
CONSOLE = re.compile(r"(?<=```console\n).*?(?=```\n)", re.S)
SWIFT = re.compile(r"(?<=```swift\n).*?(?=```\n)", re.S)
# What depends on the machine and the moment.
VARYING = [
    (r"(disk size|file length|Image end offset): .*", r"\1: ..."), (r"\d+/\d+ = .*", "... clusters"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE"),
]


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def as_run(readme):
    """The README with every console block as it comes out now."""
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(PLATTER, os.path.join(folder, "platter"))
        work = os.path.join(folder, "work")
        os.mkdir(work)
        paths = [folder, os.environ["PATH"], "/usr/sbin", "/sbin"]
        environment = dict(os.environ, PATH=":".join(paths), LC_ALL="C.UTF-8", TZ="UTC")

        def block(match):
            return "".join(answer(line) for line in match.group().split("\n") if line.startswith("$ "))

        def answer(line):
            done = subprocess.run(
                ["bash", "-c", line[2:]], cwd=work, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=True)
            return line + "\n" + done.stdout

        return CONSOLE.sub(block, readme)


def steady(text):
    for pattern, word in VARYING:
        text = re.sub(pattern, word, text)
    return text


class Readme(unittest.TestCase):
    maxDiff = None

    def test_tour_prints_what_the_readme_shows(self):
        readme = read(README)
        self.assertGreater(len(CONSOLE.findall(readme)), 2)
        self.assertEqual(steady(as_run(readme)), steady(readme))

    def test_example_is_the_one_that_is_compiled(self):
        self.assertEqual(SWIFT.findall(read(README)), [read(EXAMPLE)])
        self.assertLessEqual(len(read(EXAMPLE).splitlines()), 20)

    def test_example_reads_a_sector(self):
        with tempfile.TemporaryDirectory() as folder:
            raw, image = os.path.join(folder, "a.raw"), os.path.join(folder, "a.qcow2")
            with open(raw, "wb") as file:
                file.write(bytes(range(1, 9)).ljust(1 << 20, b"\0"))
            platter("convert", "-f", "raw", "-O", "qcow2", raw, image)
            output = run(os.path.join(BUILT, "ReadmeExample"), image)
        self.assertEqual(
            output, "qcow2, 1048576 bytes, 1 layer(s)\nsector 0: [1, 2, 3, 4, 5, 6, 7, 8] ...\n")

    def test_the_example_of_jobs_is_the_one_that_is_compiled(self):
        self.assertEqual(SWIFT.findall(read(JOBS)), [read(JOBS_EXAMPLE)])

    def test_the_example_of_jobs_streams_while_it_writes(self):
        with tempfile.TemporaryDirectory() as folder:
            base, top = os.path.join(folder, "base.qcow2"), os.path.join(folder, "top.qcow2")
            platter("create", "-q", "-f", "qcow2", base, "8M")
            platter("io", "-c", "write -q -P 1 0 4M", base)
            platter("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", top)
            output = run(os.path.join(BUILT, "JobsExample"), top)
            self.assertEqual(output, "stream: 8388608 of 8388608 bytes, backing file: false\n")
            os.remove(base)
            checks = [f"read -q -P 7 {step << 16} 4k" for step in range(16)]
            checks += [f"read -q -P 1 {(step << 16) + 4096} 60k" for step in range(64)]
            run(PLATTER, "io", "-r", *[word for check in checks for word in ("-c", check)], top)

    def test_every_linked_file_is_there(self):
        for target in re.findall(r"\]\(([^)#:]+)\)", read(README)):
            self.assertTrue(os.path.exists(os.path.join(TOP, target)), target)


def write():
    readme = SWIFT.sub(lambda _: read(EXAMPLE), as_run(read(README)))
    with open(README, "w", encoding="utf-8") as file:
        file.write(readme)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    else:
        unittest.main()
