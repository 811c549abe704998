"""Logs of writes are replayed as far as is asked for, and damaged ones are refused."""

import os
import shutil
import struct
import subprocess
import tempfile
import unittest

from program import PLATTER, TOP, run

REPLAY = os.path.join(TOP, "Scripts", "replay")
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


def log_bytes(*entries, unit=512, version=1, count=None, magic=MAGIC):
    """A log; an entry is (sector, data or number of sectors, flags, text)."""
    number = len(entries) if count is None else count
    log = struct.pack("<QQQI", magic, version, number, unit).ljust(unit, b"\0")
    for sector, data, flags, text in entries:
        sectors = data if isinstance(data, int) else len(data) // unit
        head = struct.pack("<QQQQ", sector, sectors, flags, len(text)) + text
        log += head.ljust(unit, b"\0") + (b"" if isinstance(data, int) else data)
    return log


def block(letter, count=1):
    return letter * 512 * count


class Replay(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.log, self.disk = self.path("log"), self.path("disk")

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)

    def read(self, name="disk"):
        with open(self.path(name), "rb") as file:
            return file.read()

    def replay(self, *options, status=0, disk=block(b"\0", 4)):
        if disk is not None:
            self.write("disk", disk)
        done = subprocess.run(
            [REPLAY, self.log, self.disk, *options], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout + done.stderr


class Entries(Replay):
    def setUp(self):
        super().setUp()
        self.write("log", log_bytes(
            (0, block(b"a", 2), 0, b""), (0, 0, FLUSH, b""), (1, block(b"b"), 0, b""),
            (0, 0, MARK, b"half"), (0, 1, DISCARD, b""), (3, block(b"c"), FUA, b"")))

    def test_all_are_replayed(self):
        self.replay()
        self.assertEqual(self.read(), block(b"\0") + block(b"b") + block(b"\0") + block(b"c"))

    def test_the_first_ones(self):
        expected = [
            block(b"\0", 4), block(b"a", 2) + block(b"\0", 2), block(b"a", 2) + block(b"\0", 2),
            block(b"a") + block(b"b") + block(b"\0", 2), block(b"a") + block(b"b") + block(b"\0", 2),
            block(b"\0") + block(b"b") + block(b"\0", 2)]
        for limit, disk in enumerate(expected):
            self.replay("--limit", str(limit))
            self.assertEqual(self.read(), disk, limit)

    def test_the_rest_follows(self):
        self.replay()
        whole = self.read()
        for limit in range(7):
            self.replay("--limit", str(limit))
            self.replay("--start", str(limit), disk=None)
            self.assertEqual(self.read(), whole, limit)

    def test_to_a_mark(self):
        self.replay("--to-mark", "half")
        self.assertEqual(self.read(), block(b"a") + block(b"b") + block(b"\0", 2))
        self.assertIn("no mark 'no'", self.replay("--to-mark", "no", status=2))

    def test_a_discard_ends_with_the_device(self):
        self.write("log", log_bytes((1, 1 << 40, DISCARD, b"")))
        self.replay(disk=block(b"x", 2))
        self.assertEqual(self.read(), block(b"x") + block(b"\0"))

    def test_a_write_makes_a_file_longer(self):
        self.replay(disk=b"")
        self.assertEqual(len(self.read()), 2048)

    def test_the_check_stops_at_the_first_failure(self):
        self.assertEqual(self.replay("--fsck", "cp {} " + self.path("seen")), "")
        self.assertEqual(self.read("seen"), block(b"a", 2) + block(b"\0", 2))
        self.assertIn("after entry 1: flush", self.replay("--fsck", "grep -q b", status=1))
        self.assertEqual(self.read(), block(b"a", 2) + block(b"\0", 2))
        self.assertIn("after entry 5: fua", self.replay("--fsck", "false", "--check", "fua", status=1))
        self.assertIn(
            "after entry 2: write", self.replay("--fsck", "false", "--check", "3", status=1))

    def test_they_are_listed(self):
        text = run(REPLAY, "--list", self.log)
        self.assertEqual(
            text.split("\n")[:2], ["0: write sector 0, 2 sectors", "1: flush sector 0, 0 sectors"])
        self.assertIn("3: mark sector 0, 0 sectors half\n", text)


class Damages(Replay):
    def test_they_are_refused(self):
        write = (0, block(b"a"), 0, b"")
        for log, what in [
            (b"", "ends before"), (log_bytes(magic=1), "no log"), (log_bytes(version=2), "version 2"),
            (log_bytes(unit=48), "48 bytes"), (log_bytes(write, count=2), "ends before"),
            (log_bytes(write)[:-1], "ends behind"), (log_bytes((0, 0, 32, b"")), "flags 0x20"),
            (log_bytes((0, 1 << 63, 0, b"")), "ends behind"),
            (log_bytes(write, count=1 << 63), "ends before"),
            (struct.pack("<QQQIIQQQQ", MAGIC, 1, 1, 32, 0, 0, 0, 8, 1), "text"),
        ]:
            self.write("log", log)
            self.assertIn(what, self.replay(status=2))

    def test_nothing_is_made(self):
        self.write("log", log_bytes())
        self.replay(status=2, disk=None)
        self.assertFalse(os.path.exists(self.disk))


class Programs(Replay):
    """Each state of an image comes back from the log that was written beside it."""

    LOGGED = "driver=blklogwrites,file.driver=raw,file.file.filename=disk,log.filename=log,log-append=on"
    STEPS = [
        "write -P 1 0 4k", "write -P 2 1000 3000", "write -z 2k 1k", "discard 512 1k", "write -P 3 60k 4k",
        "write -P 4 0 64k", "write -z 100 1", "write -P 5 63k 1k"]

    def states(self, io):
        """Runs the steps; the number of entries and the disk after each."""
        self.write("log", b"")
        self.write("disk", bytes(65536))
        states = []
        for step in self.STEPS:
            run(*io, "-c", step, "--image-opts", self.LOGGED, cwd=self.folder)
            with open(self.log, "rb") as file:
                states.append((struct.unpack("<QQQI", file.read(28))[2], self.read()))
        return states

    def check(self, io):
        states = self.states(io)
        for entries, disk in states:
            self.replay("--limit", str(entries), disk=bytes(65536))
            self.assertEqual(self.read(), disk, entries)
        self.assertEqual(sorted({entries for entries, _ in states}), [entries for entries, _ in states])

    def test_ours(self):
        self.check([PLATTER, "io"])

    def test_qemu(self):
        peer = shutil.which("qemu-io")
        if peer is None and "CI" not in os.environ:
            self.skipTest("qemu-io is not installed")
        self.check([peer or "qemu-io"])

    def test_checks_of_an_image_pass_at_each_flush(self):
        """A log of an image's file: at each flush the image has no corruption."""
        image = self.path("disk")
        run(PLATTER, "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", image, "1M")
        before = self.read()
        self.write("log", b"")
        logged = ("driver=qcow2,file.driver=blklogwrites,file.file.filename=disk,"
                  "file.log.filename=log")
        steps = []
        for step in range(12):
            steps += ["-c", f"write -q -P {step} {step * 9}k 5k", "-c", "flush"]
        run(PLATTER, "io", *steps, "--image-opts", logged, cwd=self.folder)
        after = self.read()
        # Leaks (3) are allowed, corruption (2) is not.
        self.write("check.sh", f'''
            cp "$1" "$1.copy" && "{PLATTER}" check -q "$1.copy" > /dev/null
            code=$?; echo $code >> "$1.codes"; test $code -eq 0 -o $code -eq 3
            '''.encode())
        self.replay("--fsck", "sh " + self.path("check.sh"), disk=before)
        self.assertEqual(self.read(), after)
        self.assertGreaterEqual(len(self.read("disk.codes").split()), 12)


if __name__ == "__main__":
    unittest.main()
