"""Faults: metadata steps and system calls that fail, short writes, and disks that are full."""

import collections
import os
import re
import resource
import shutil
import subprocess
import time

import fault_cases
from prove import TOP, PartFailure, Row

# The calls that change an image or make it durable.
CALLS = ("pwrite64", "pwritev", "pwritev2", "fsync", "fdatasync", "ftruncate", "fallocate", "copy_file_range",
         "io_uring_enter", "io_submit", "rename", "renameat2", "linkat")
ERRORS = {"EIO": 5, "ENOSPC": 28}
TIMEOUT = 120
# Exit statuses of a check that found nothing, or leaks alone, or that the format has none.
SOUND = (0, 3, 63)
LEFT_OPEN = "ERROR image was not closed correctly"


class Bench:
    """Runs cases in copies of their folders and judges what is left."""

    def __init__(self, context):
        self.context = context
        self.program = os.path.realpath(context.platter())
        self.bin = os.path.join(context.folder, "bin")
        os.makedirs(self.bin, exist_ok=True)
        if not os.path.exists(os.path.join(self.bin, "platter")):
            os.symlink(self.program, os.path.join(self.bin, "platter"))
        self.variables = dict(os.environ, PATH=self.bin + ":" + os.environ["PATH"], LC_ALL="C.UTF-8")
        self.violations = []

    def shell(self, line, folder, prefix=(), limit=None):
        """The exit status of a line of shell, or of one command behind a prefix."""
        command = [*prefix, "bash", "-c", line] if not prefix else [*prefix, *self.words(line)]
        done = subprocess.run(
            command, cwd=folder, env=self.variables, check=False, timeout=TIMEOUT, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=limit,
            # Python ignores SIGXFSZ: then a write past the limit fails with EFBIG.
            restore_signals=limit is None)
        return done.returncode, done.stderr.decode(errors="replace")

    def words(self, line):
        """The words of a command without expansions, the program by its path."""
        words = [m[1] if m[1] is not None else m[2] for m in re.finditer(r"'([^']*)'|(\S+)", line)]
        return [self.program] + words[1:]

    def template(self, case):
        """A folder with the case's images."""
        folder = os.path.join(self.context.folder, "template")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        for line in case.setup:
            status, error = self.shell(line, folder)
            if status:
                raise PartFailure(f"{case.name}: {line}: {error}")
        clean = self.copy(folder)
        status, error = self.shell(case.command.replace("IMAGE", case.image), clean, ("env",))
        missing = self.holds(case.done, clean)
        if status or missing:
            raise PartFailure(f"{case.name}: without a fault: status {status} {error} {missing}")
        return folder

    @property
    def place(self):
        """The folder in which the commands run."""
        return os.path.join(self.context.folder, "run")

    def copy(self, template):
        """Fills the place with a copy of a folder."""
        os.makedirs(self.place, exist_ok=True)
        for name in os.listdir(self.place):
            os.remove(os.path.join(self.place, name))
        # Copied with their holes: a full disk has to be filled by the command.
        subprocess.run(["cp", "-a", "--sparse=always", template + "/.", self.place], check=True)
        return self.place

    def holds(self, lines, folder):
        """The first of the lines that does not hold; `None` when all do."""
        for line in lines:
            status, error = self.shell(line, folder)
            if status:
                return f"{line}: {error.strip()}"
        return None

    def judge(self, case, folder, status, text):
        """What is wrong after the command ended with that status; `None` for nothing."""
        if status < 0 or status > 2 and not case.command.startswith("platter check"):
            return f"the command ended with status {status}: {text[-200:]}"
        for name in case.sound:
            fmt, path = name.split(":", 1)
            if fmt == "raw" or not os.path.exists(os.path.join(folder, path)):
                continue
            found, error = self.shell(f"platter check -q -f {fmt} {path}", folder)
            if error.splitlines() == [LEFT_OPEN]:
                # The mark of Parallels images stays after a failure: the next user looks, and takes it off.
                self.shell(f"platter check -q -f {fmt} -r all {path}", folder)
                found, error = self.shell(f"platter check -q -f {fmt} {path}", folder)
            if found not in SOUND:
                return f"{name} is not sound ({found}): {error.strip()}"
        if status == 0:
            missing = self.holds(case.done, folder)
            return missing and f"status 0, but the work is not done: {missing}"
        lost = self.holds(case.kept, folder)
        if lost:
            return f"lost after status {status}: {lost}"
        if self.holds(case.done, folder) is None:
            return None
        again, error = self.shell(case.command.replace("IMAGE", case.image), folder)
        if again:
            return f"cannot be done again: {error.strip()}"
        missing = self.holds(case.done, folder)
        return missing and f"done again, but it is not done: {missing}"

    def is_refused(self, case):
        """Whether the kernel here refuses what the command needs."""
        try:
            return case.may_be_refused and self.template(case) is None
        except PartFailure:
            return True

    def trial(self, case, template, what, prefix=(), limit=None, name=None, after=None,
              quiet=False):
        """Runs the command once, then `after`, and notes what is wrong; returns the command's status."""
        folder = self.copy(template)
        command = case.command.replace("IMAGE", name or case.image)
        try:
            status, text = self.shell(command, folder, prefix or ("env",), limit)
            if after:
                after()
            problem = self.judge(case, folder, status, text)
        except subprocess.TimeoutExpired:
            status, problem = -1, f"no end after {TIMEOUT} seconds"
        if problem:
            self.violations.append(f"{case.name}: {what}: {problem}")
            if not quiet:
                print(f"VIOLATION {self.violations[-1]}", flush=True)
        return status

    def rows(self, what, trials, cases):
        """Runs the trials on the cases, and makes a row of each command."""
        commands = collections.defaultdict(list)
        for case in cases:
            commands[case.name.split(",")[0]].append(case)
        for command, group in commands.items():
            began, before = time.monotonic(), len(self.violations)
            ends = collections.Counter(status for case in group for status in trials(self, case))
            if set(ends) <= {0}:
                raise PartFailure(f"{what}: {command}: no fault had an effect")
            formats = ", ".join(sorted({case.image_format for case in group}))
            yield Row("faults", f"{what}: {command}, {formats}", sum(ends.values()),
                      len(self.violations) - before, time.monotonic() - began)


def chosen(count, most):
    """At most that many of the numbers from 1 to count, evenly, with the first and the last."""
    if count <= most:
        return list(range(1, count + 1))
    return sorted({1 + index * (count - 1) // (most - 1) for index in range(most)})


def calls_of(bench, case, template):
    """How often a thread of the command makes each call, at most."""
    folder, log = bench.copy(template), os.path.join(bench.context.folder, "calls")
    tracer = ("strace", "-f", "-qq", "-o", log, "-e", "trace=" + ",".join(CALLS))
    bench.shell(case.command.replace("IMAGE", case.image), folder, tracer)
    counts = collections.Counter()
    with open(log, encoding="utf-8", errors="replace") as file:
        for line in file:
            if match := re.match(r"(\d+) +(\w+)\(", line):
                counts[match[1], match[2]] += 1
    most = collections.Counter()
    for (_, call), count in counts.items():
        most[call] = max(most[call], count)
    return most


def system_calls(bench, case):
    """One system call after the other fails, once or from then on."""
    template = bench.template(case)
    for call, count in sorted(calls_of(bench, case, template).items()):
        for number in chosen(count, 30 if bench.context.is_long else 2):
            for error in ERRORS:
                for when in (f"{number}", f"{number}+"):
                    prefix = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
                              "-e", f"inject={call}:error={error}:when={when}")
                    yield bench.trial(case, template, f"{call} {when} {error}", prefix)


def short_writes(bench, case):
    """Files may grow to a limit only: the write that crosses it is short, the next one fails."""
    template = bench.template(case)
    sizes = [256 << 10, 1 << 20, 2 << 20, 3 << 20]
    for size in range(64 << 10, 4 << 20, 60_000) if bench.context.is_long else sizes[:2]:
        def limit(size=size):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        yield bench.trial(case, template, f"files of at most {size} bytes", limit=limit)


def full_disks(bench, case):
    """The file system has room for so many bytes more, and is really full then."""
    template = bench.template(case)
    room = range(0, 4 << 20, 124 << 10) if bench.context.is_long else (64 << 10, 1 << 20)
    used = int(subprocess.run(["du", "-s", "--block-size=1", template], check=True, capture_output=True,
                              text=True).stdout.split()[0])

    def mount(size, *flags):
        options = ",".join([*flags, f"size={used + size + 65536}"])
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", bench.place], check=True)

    for size in room:
        mount(size)
        try:
            yield bench.trial(case, template, f"room for {size} bytes",
                              after=lambda: mount(32 << 20, "remount"))
        finally:
            subprocess.run(["umount", bench.place], check=True)


def events():
    """The names of the metadata events."""
    path = os.path.join(TOP, "Sources", "BlockCore", "Drivers", "MetadataEvent.swift")
    with open(path, encoding="utf-8") as file:
        return re.findall(r'^    case \w+ = "(\w+)"', file.read(), re.MULTILINE)


def metadata(bench, case):
    """Each metadata event of the image's driver is followed by an error, once or from then on."""
    template = bench.template(case)
    for event in events():
        for once in ("off", "on") if bench.context.is_long else ("off",):
            for error in list(ERRORS.values())[:None if bench.context.is_long else 1]:
                with open(os.path.join(template, "rules"), "w", encoding="utf-8") as file:
                    file.write(f'[inject-error]\nevent = "{event}"\nerrno = "{error}"\nonce = "{once}"\n')
                name = f"blkdebug:rules:{case.image}"
                status = bench.trial(case, template, f"{event} errno {error} once {once}", name=name)
                if status == 0:
                    break
                yield status
            if status == 0:
                break


def control(bench, case):
    """A program that reports success whatever happens must be caught."""
    template, honest = bench.template(case), bench.program
    liar = os.path.join(bench.context.folder, "liar")
    with open(liar, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\n"{honest}" "$@"\nexit 0\n')
    os.chmod(liar, 0o700)
    bench.program = liar
    prefix = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64",
              "-e", "inject=pwrite64:error=EIO:when=1+")
    bench.trial(case, template, "a lie", prefix, quiet=True)
    bench.program = honest
    if not bench.violations:
        raise PartFailure("a program that lies about its work was not caught, so this part proves nothing")
    bench.violations.clear()


def rows(context):
    yield from context.swift_tests("MetadataFault")
    if not shutil.which("strace"):
        raise PartFailure("needs strace")
    bench = Bench(context)
    cases = [case for case in fault_cases.cases() if not bench.is_refused(case)]
    control(bench, next(case for case in cases if case.name == "convert, vdi"))
    yield from bench.rows("system calls", system_calls, cases)
    growing = [case for case in cases if case.grows]
    yield from bench.rows("short writes", short_writes, growing)
    if os.geteuid() == 0:
        yield from bench.rows("full disks", full_disks, growing)
    filtered = [case for case in cases if case.filters and case.image_format == "qcow2"]
    yield from bench.rows("metadata steps", metadata, filtered)
