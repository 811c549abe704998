"""Every file of the corpus opens in 2 seconds and 100 MB, whatever is in it: info, check and map."""

import bz2
import os
import resource
import subprocess
import time

import prove

LIMIT_BYTES = 100_000_000
LIMIT_SECONDS = 2.0
FIXTURES = os.path.join(prove.TOP, "Tests", "Fixtures")
COMMANDS = ["info", "check", "map"]


def corpus(folder):
    """The files of the fixtures; packed ones unpacked into `folder`."""
    for place, _, names in sorted(os.walk(FIXTURES)):
        for name in sorted(names):
            path = os.path.join(place, name)
            if not name.endswith(".bz2"):
                yield os.path.relpath(path, FIXTURES), path
                continue
            unpacked = os.path.join(folder, name[:-4])
            with bz2.open(path) as packed, open(unpacked, "wb") as file:
                while block := packed.read(1 << 20):
                    # Holes stay holes.
                    if block.strip(b"\0"):
                        file.write(block)
                    else:
                        file.seek(len(block), os.SEEK_CUR)
                file.truncate(file.tell())
            yield os.path.relpath(path, FIXTURES), unpacked


def formats_of(name):
    """The formats as which a file is opened: what it looks like, and that of the fuzzer that found it."""
    parts = name.split(os.sep)
    guesses = [None]
    if parts[0] == "fuzz":
        guesses.append(parts[1].split("-")[0].replace("chain", "qcow2"))
    return guesses


def measure(command):
    """The seconds, the greatest resident size in bytes, and the status of a command."""
    began = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (60, 60))) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    # The processor's time: others may keep the machine busy.
    seconds = min(time.monotonic() - began, usage.ru_utime + usage.ru_stime)
    return seconds, usage.ru_maxrss * 1024, process.returncode


def rows(context):
    program = context.platter()
    for command in COMMANDS:
        tried = violations = 0
        began = time.monotonic()
        most, longest = 0, 0.0
        for name, path in corpus(context.folder):
            for format_name in formats_of(name):
                chosen = ["-f", format_name] if format_name else []
                seconds, size, status = measure([program, command, *chosen, path])
                tried += 1
                most, longest = max(most, size), max(longest, seconds)
                if size > LIMIT_BYTES or seconds > LIMIT_SECONDS or status < 0:
                    violations += 1
                    print(f"VIOLATION: {command} {name} as {format_name}: {seconds:.2f} s, {size >> 20} MiB, "
                          f"status {status}", flush=True)
        what = f"`{command}`: at most {most / 1e6:.0f} MB, {longest:.2f} s of the processor"
        yield prove.Row("memory", what, tried, violations, time.monotonic() - began)
