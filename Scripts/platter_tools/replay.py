"""Replays a log of writes onto a device or file: all of it, a part, or with a check after each flush.

The log is that of Linux' device-mapper target log-writes (in the kernel's documentation:
admin-guide/device-mapper/log-writes.rst): a sector with the magic number, then entries of one sector, each
followed by its data. All numbers are little-endian, and "sector" is the log's own unit.
"""

import argparse
import dataclasses
import os
import shlex
import struct
import subprocess
import sys

MAGIC = 0x6A736677736872
VERSION = 1
HEADER = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")
FLUSH, FUA, DISCARD, MARK, METADATA = 1, 2, 4, 8, 16
FLAG_NAMES = {FLUSH: "flush", FUA: "fua", DISCARD: "discard", MARK: "mark", METADATA: "metadata"}
SECTOR_SIZES = range(ENTRY.size, 1 << 24)
PIECE_BYTES = 1 << 20


class Damaged(Exception):
    """The log breaks the rules of its format."""


@dataclasses.dataclass
class Entry:
    number: int
    sector: int
    sectors: int
    flags: int
    # The text of a mark, and the offset of the data in the log.
    text: bytes
    offset: int

    def has(self, flags):
        return bool(self.flags & flags)

    @property
    def data_sectors(self):
        return 0 if self.has(DISCARD) else self.sectors

    @property
    def mark(self):
        """The name of a mark; `None` for any other entry."""
        return self.text.rstrip(b"\0").decode("utf-8", "replace") if self.has(MARK) else None

    def line(self):
        names = ",".join(name for flag, name in FLAG_NAMES.items() if self.has(flag)) or "write"
        text = f" {self.mark}" if self.has(MARK) else ""
        return f"{self.number}: {names} sector {self.sector}, {self.sectors} sectors{text}"


class Log:
    """An open log. Its entries are read as they are asked for."""

    def __init__(self, file):
        self.file = file
        self.length = os.fstat(file.fileno()).st_size or file.seek(0, os.SEEK_END)
        magic, version, self.count, self.sector_bytes = HEADER.unpack(self.read(0, HEADER.size))
        if magic != MAGIC:
            raise Damaged("this is no log: it has another magic number")
        if version != VERSION:
            raise Damaged(f"version {version} of the log is not known")
        if self.sector_bytes not in SECTOR_SIZES or self.sector_bytes & (self.sector_bytes - 1):
            raise Damaged(f"the log has sectors of {self.sector_bytes} bytes")

    def read(self, offset, count):
        """Exactly that many bytes."""
        if offset + count > self.length:
            raise Damaged(f"the log ends before byte {offset + count}")
        self.file.seek(offset)
        data = self.file.read(count)
        if len(data) != count:
            raise Damaged(f"the log ends before byte {offset + count}")
        return data

    def __iter__(self):
        offset = self.sector_bytes
        for number in range(self.count):
            entry = self.entry(number, offset)
            offset = entry.offset + entry.data_sectors * self.sector_bytes
            if offset > self.length:
                raise Damaged(f"entry {number} ends behind the end of the log")
            yield entry

    def entry(self, number, offset):
        sector, sectors, flags, count = ENTRY.unpack(self.read(offset, ENTRY.size))
        if flags & ~sum(FLAG_NAMES):
            raise Damaged(f"entry {number} has the flags {flags:#x}")
        if count > self.sector_bytes - ENTRY.size:
            raise Damaged(f"entry {number} has {count} bytes of text")
        text = self.read(offset + ENTRY.size, count)
        return Entry(number, sector, sectors, flags, text, offset + self.sector_bytes)


class Device:
    """What is written: a block device or a file."""

    def __init__(self, file, sector_bytes):
        self.file = file
        self.sector_bytes = sector_bytes

    def apply(self, entry, log):
        if entry.has(DISCARD):
            self.clear(entry)
        for done in range(0, entry.data_sectors * self.sector_bytes, PIECE_BYTES):
            count = min(PIECE_BYTES, entry.data_sectors * self.sector_bytes - done)
            self.write(entry.sector * self.sector_bytes + done, log.read(entry.offset + done, count))
        if entry.has(FLUSH | FUA):
            self.file.flush()

    def clear(self, entry):
        """Writes zeroes for a discard, which any device has, up to the end of the device."""
        start = entry.sector * self.sector_bytes
        end = min(start + entry.sectors * self.sector_bytes, self.file.seek(0, os.SEEK_END))
        for offset in range(start, end, PIECE_BYTES):
            self.write(offset, bytes(min(PIECE_BYTES, end - offset)))

    def write(self, offset, data):
        self.file.seek(offset)
        self.file.write(data)


def is_checked(entry, kind):
    """Whether the check runs after this entry: `flush`, `fua`, or each so many entries."""
    if kind.isdigit():
        return (entry.number + 1) % int(kind) == 0
    return entry.has({"flush": FLUSH, "fua": FUA}[kind])


def check(command, device, environment):
    """Runs the command of --fsck on the device; its exit status."""
    words = [word.replace("{}", device) for word in shlex.split(command)]
    if "{}" not in command:
        words.append(device)
    return subprocess.run(words, env=environment, check=False).returncode


def kind_of_check(text):
    if text in ("flush", "fua") or text.isdigit() and int(text) > 0:
        return text
    raise argparse.ArgumentTypeError(f"'{text}' is none of flush, fua and a number")


def arguments(words):
    parser = argparse.ArgumentParser(prog="replay", description=__doc__.split("\n")[0])
    parser.add_argument("log")
    parser.add_argument("device", nargs="?", help="a block device or a file, as it was when the log began")
    parser.add_argument("--limit", type=int, metavar="N", help="replay the first N entries")
    parser.add_argument("--to-mark", metavar="M", help="replay up to the mark with this text")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="begin behind the first N entries")
    parser.add_argument(
        "--fsck", metavar="CMD", help="run CMD on the device (as {}, or last); stop where it fails")
    parser.add_argument(
        "--check", type=kind_of_check, default="flush", metavar="WHEN",
        help="run it after each flush (default), each fua, or each so many entries")
    parser.add_argument("--list", action="store_true", help="print the entries instead")
    options = parser.parse_args(words)
    if options.device is None and not options.list:
        parser.error("name the device to replay onto")
    return options


def replay(log, options, environment):
    """Replays what the options choose. Returns the exit status."""
    limit = log.count if options.limit is None else options.limit
    with open(options.device, "r+b", buffering=0) as file:
        device = Device(file, log.sector_bytes)
        for entry in log:
            if entry.number >= limit:
                return 0
            if entry.number >= options.start:
                device.apply(entry, log)
                status = 0
                if options.fsck and is_checked(entry, options.check):
                    status = check(options.fsck, options.device, environment)
                if status != 0:
                    print(f"replay: the check fails with status {status} after entry {entry.line()}")
                    return 1
            if options.to_mark is not None and entry.mark == options.to_mark:
                return 0
    if options.to_mark is not None:
        print(f"replay: the log has no mark '{options.to_mark}'", file=sys.stderr)
        return 2
    return 0


def main(words, environment):
    options = arguments(words)
    try:
        with open(options.log, "rb") as file:
            log = Log(file)
            if not options.list:
                return replay(log, options, environment)
            for entry in log:
                print(entry.line())
    except (OSError, Damaged) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2
    return 0
