"""kill -9 of long commands at random times on real files; each then runs again to its end."""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import time

import prove

MIB = 1 << 20
KILLS_LONG, KILLS_SHORT = 200, 4


class Violation(Exception):
    """A promise that did not hold."""


@dataclasses.dataclass
class Bench:
    """One folder with the images of a scenario as they are before the command."""
    program: str
    folder: str
    seed: int

    def path(self, name):
        return os.path.join(self.folder, name)

    def run(self, *arguments):
        """Runs the program."""
        return self.call([self.program, *arguments], (0,))

    def peer(self, *arguments, codes=(0,)):
        """Runs qemu-img, the judge; `codes` are the statuses that are expected."""
        return self.call(["qemu-img", *arguments], codes)

    def call(self, command, codes):
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode not in codes:
            text = (done.stdout + done.stderr).strip()[-300:]
            name = os.path.basename(command[0])
            raise Violation(f"{name} {' '.join(command[1:])}: status {done.returncode}: {text}")
        return done.stdout

    def image(self, name, megabytes, over=None, stamp=1, share=3):
        """Makes a qcow2 image with data in one of `share` chunks."""
        backing = ["-b", over, "-F", "qcow2"] if over else []
        self.peer("create", "-q", "-f", "qcow2", *backing, name, str(megabytes * MIB))
        chosen = random.Random(self.seed * 1000 + stamp)
        commands = []
        for offset in range(0, megabytes * MIB, 256 << 10):
            if chosen.randrange(share) == 0:
                byte, count = chosen.randrange(1, 255), chosen.randrange(1, 65) * 4096
                commands += ["-c", f"write -q -P {byte} {offset} {count}"]
        for start in range(0, len(commands), 400):
            subprocess.run(["qemu-io", *commands[start:start + 400], self.path(name)], check=True,
                           stdout=subprocess.DEVNULL)

    def expect(self, name, raw="expected.raw"):
        """Keeps the guest's bytes of an image, as qemu-img reads them, for ``same``."""
        self.peer("convert", "-O", "raw", name, raw)

    def same(self, name, raw="expected.raw"):
        self.peer("compare", "-F", "raw", name, raw)

    def sound(self, name):
        """No corruption; leaks may be left."""
        self.peer("check", "-q", name, codes=(0, 3))


class Scenario:
    """What is killed: `prepare` makes the files, `after` judges what a kill left, `end` the second run."""
    megabytes = 64

    def __init__(self, name, prepare, command, after, end, again=None):
        self.name, self.prepare, self.command = name, prepare, command
        self.after, self.end = after, end
        # The command that runs after the kill; by default the same one.
        self.again = again or command


def chain(bench):
    for number, below in ((0, None), (1, "layer0"), (2, "layer1")):
        bench.image(f"layer{number}", Scenario.megabytes, below, number + 1)
    bench.expect("layer2")


def keeps(name):
    """The guest's bytes are those from before the command, and the tables are sound."""
    def judge(bench):
        bench.sound(name)
        bench.same(name)
    return judge


def keeps_chain(bench):
    for name in ("layer2", "layer1", "layer0"):
        bench.sound(name)
    bench.same("layer2")


def one(bench):
    bench.image("disk", Scenario.megabytes, share=2)
    bench.expect("disk")


def other_base(bench):
    chain(bench)
    bench.image("other", Scenario.megabytes, stamp=9)


def backed(name, expected):
    def judge(bench):
        keeps_chain(bench)
        text = bench.peer("info", name)
        wanted = f"backing file: {expected}" if expected else ""
        if wanted not in text or not wanted and "backing file:" in text:
            raise Violation(f"{name} does not have the backing file {expected}")
    return judge


def committed(bench):
    keeps_chain(bench)
    bench.same("layer1")


def converted(bench):
    if os.path.exists(bench.path("copy")):
        bench.sound("copy")
        bench.same("copy")


def convert_end(bench):
    if not os.path.exists(bench.path("copy")):
        raise Violation("there is no copy")
    converted(bench)


def resized(bench):
    """The old bytes are there, in the old or the new size."""
    bench.sound("disk")
    bench.same("disk")


def resize_end(bench):
    resized(bench)
    if f"({96 * MIB} bytes)" not in bench.peer("info", "disk"):
        raise Violation("the disk has not its new size")


def snapshots(bench):
    one(bench)
    bench.peer("snapshot", "-c", "old", "disk")
    bench.expect("disk", "snapshot.raw")
    rewrite = ["-c", f"write -q -P 77 0 {Scenario.megabytes // 2 * MIB}"]
    subprocess.run(["qemu-io", *rewrite, bench.path("disk")], check=True, stdout=subprocess.DEVNULL)
    bench.expect("disk")


def snapshot_end(present):
    def judge(bench):
        keeps("disk")(bench)
        if (" old " in bench.peer("snapshot", "-l", "disk")) != present:
            raise Violation(f"the snapshot should {'' if present else 'not '}be there")
        if present:
            bench.peer("convert", "-l", "snapshot.name=old", "-O", "raw", "disk", "found.raw")
            bench.peer("compare", "-f", "raw", "-F", "raw", "found.raw", "snapshot.raw")
    return judge


def resize_again(bench):
    """A disk that has its size already has no space to reserve."""
    if f"({96 * MIB} bytes)" not in bench.peer("info", "disk"):
        bench.run("resize", "-q", "--preallocation=full", "disk", f"{96 * MIB}")


def delete_again(bench):
    """The first run may have got to its end before it was killed."""
    if " old " in bench.peer("snapshot", "-l", "disk"):
        bench.run("snapshot", "-d", "old", "disk")


def damaged(bench):
    """All reference counts of the second half are lost, and some of the first leak."""
    one(bench)
    with open(bench.path("disk"), "r+b") as file:
        file.seek(48)
        table = int.from_bytes(file.read(8), "big")
        file.seek(table)
        block = int.from_bytes(file.read(8), "big")
        for number in range(40, 400):
            file.seek(block + number * 2)
            file.write(b"\0\2" if number < 100 else b"\0\0")


def readable(bench):
    """Damaged or not, the guest's bytes are there."""
    bench.same("disk")


def repaired(bench):
    bench.same("disk")
    bench.peer("check", "-q", "disk")


def jobs_script(bench):
    """What the shell is told: a job, and writes to the upper half of the disk meanwhile."""
    chosen = random.Random(bench.seed)
    half = Scenario.megabytes // 2 * MIB
    writes = [f"write -q -P 165 {half + chosen.randrange(half // 65536) * 65536} 64k" for _ in range(200)]
    commands = ["job start stream", *writes, "flush", "job wait stream1"]
    return ["io", "-f", "qcow2", *(part for command in commands for part in ("-c", command)), "layer2"]


def lower_half(bench):
    """The bytes that no write has changed are right, and the others are old, or those of a write."""
    for name in ("layer2", "layer1", "layer0"):
        bench.sound(name)
    bench.peer("convert", "-O", "raw", "layer2", "found.raw")
    with open(bench.path("found.raw"), "rb") as found, open(bench.path("expected.raw"), "rb") as expected:
        for offset in range(0, Scenario.megabytes * MIB, 65536):
            here, there = found.read(65536), expected.read(65536)
            if here == there:
                continue
            if offset < Scenario.megabytes // 2 * MIB:
                raise Violation(f"bytes at {offset} are not those from before")
            for sector in range(0, 65536, 512):
                if here[sector:sector + 512] not in (there[sector:sector + 512], bytes([165]) * 512):
                    raise Violation(f"the sector at {offset + sector} is neither old nor new")


def streamed(bench):
    lower_half(bench)
    if "backing file:" in bench.peer("info", "layer2"):
        raise Violation("the stream has not ended")


SCENARIOS = [
    Scenario("convert", chain, ["convert", "-O", "qcow2", "layer2", "copy"], converted, convert_end),
    Scenario("commit", chain, ["commit", "-q", "-d", "layer2"], keeps_chain, committed),
    Scenario("commit, emptying the top", chain, ["commit", "-q", "layer2"], keeps_chain, committed),
    Scenario("rebase", other_base, ["rebase", "-q", "-b", "other", "-F", "qcow2", "layer2"], keeps_chain,
             backed("layer2", "other")),
    Scenario("stream", chain, ["stream", "-q", "layer2"], keeps_chain, backed("layer2", None)),
    Scenario("resize", one, ["resize", "-q", "--preallocation=full", "disk", f"{96 * MIB}"], resized,
             resize_end, resize_again),
    Scenario("snapshot -d", snapshots, ["snapshot", "-d", "old", "disk"], keeps("disk"), snapshot_end(False),
             delete_again),
    Scenario("snapshot -a", snapshots, ["snapshot", "-a", "old", "disk"], lambda bench: bench.sound("disk"),
             lambda bench: (bench.sound("disk"), bench.same("disk", "snapshot.raw"))),
    Scenario("check -r all", damaged, ["check", "-q", "-r", "all", "disk"], readable, repaired),
    Scenario("amend", one, ["amend", "-q", "-o", "refcount_bits=64", "disk"], keeps("disk"), keeps("disk")),
    Scenario("io with a stream", chain, jobs_script, lower_half, streamed, ["stream", "-q", "layer2"]),
]


def kill_once(bench, scenario, delay):
    """Kills the command after `delay` seconds, unless it ends before; judges; runs it to its end; judges.

    Returns whether it was killed, and the seconds that it ran."""
    command = scenario.command(bench) if callable(scenario.command) else scenario.command
    began = time.monotonic()
    with subprocess.Popen([bench.program, *command], cwd=bench.folder, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        try:
            status = process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            status = process.wait()
    took = time.monotonic() - began
    if status not in (0, -signal.SIGKILL):
        raise Violation(f"the command ended with status {status} before it was killed")
    scenario.after(bench)
    if callable(scenario.again):
        again = scenario.again(bench)
        if again:
            bench.run(*again)
    else:
        bench.run(*scenario.again)
    scenario.end(bench)
    return status != 0, took


def copy_of(folder, work):
    shutil.rmtree(work, ignore_errors=True)
    subprocess.run(["cp", "-r", "--sparse=always", "--reflink=auto", folder, work], check=True)


def run_scenario(scenario, number, context, kills):
    """The row of one command."""
    began = time.monotonic()
    clean, work = os.path.join(context.folder, "clean"), os.path.join(context.folder, "work")
    shutil.rmtree(clean, ignore_errors=True)
    os.mkdir(clean)
    program = context.platter()
    scenario.prepare(Bench(program, clean, number))
    copy_of(clean, work)
    _, length = kill_once(Bench(program, work, number), scenario, 600)
    killed = violations = seed = 0
    # A run that ends before its kill proves nothing: another one takes its place.
    while killed < kills and seed < 3 * kills:
        copy_of(clean, work)
        seed += 1
        delay = random.Random(number * 100_000 + seed).uniform(0, length)
        try:
            killed += kill_once(Bench(program, work, number), scenario, delay)[0]
        except Violation as violation:
            violations += 1
            print(f"VIOLATION: {scenario.name}, seed {seed}, after {delay:.4f} s: {violation}", flush=True)
    what = f"`{scenario.name}`: {seed} runs, killed within {length * 1000:.0f} ms"
    return prove.Row("kill", what, killed, violations, time.monotonic() - began)


def rows(context):
    kills = KILLS_LONG if context.is_long else KILLS_SHORT
    for number, scenario in enumerate(SCENARIOS, 1):
        yield run_scenario(scenario, number, context, kills)
