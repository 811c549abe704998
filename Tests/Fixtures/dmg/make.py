#!/usr/bin/env python3
"""Makes the images in this folder anew: pip install pyliblzfse, then ./make.py

Each holds the disk that `disk()` makes; DmgFixture.swift makes the same one. The streams are those of Apple's
own encoder for LZFSE, and of Python's libraries.
"""

import os
import struct
import sys

import liblzfse

FOLDER = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(FOLDER, "..", "..", "Scripts"))
import dmg_writer  # noqa: E402

SECTOR = 512
MASK = (1 << 64) - 1


class Random:
    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & MASK
        return self.state >> 33


def words(count, seed):
    """Words of a small language: 64 of 3 to 10 letters, picked at random."""
    random = Random(seed)
    known = [bytes(97 + random.next() % 26 for _ in range(3 + random.next() % 8)) for _ in range(64)]
    text = bytearray()
    while len(text) < count:
        text += known[random.next() % 64] + b" "
    return bytes(text[:count])


def disk():
    random = Random(5)
    noise = bytes(random.next() & 255 for _ in range(16 * SECTOR))
    return words(192 * SECTOR, 1) + bytes(64 * SECTOR) + words(7 * SECTOR, 7) + bytes(2 * SECTOR) + noise \
        + words(3 * SECTOR, 9)


def plain_tables(stream):
    """The same stream of LZFSE with blocks of `bvx1`, which no encoder writes: headers unpacked."""
    out, place = b"", 0
    while stream[place:place + 4] != b"bvx$":
        magic, raw = struct.unpack_from("<4sI", stream, place)
        if magic == b"bvxn":
            end = place + 12 + struct.unpack_from("<I", stream, place + 8)[0]
            out += stream[place:end]
        elif magic == b"bvx-":
            end = place + 8 + raw
            out += stream[place:end]
        else:
            header, end = plain_header(stream, place, raw)
            out += header + stream[place + struct.unpack_from("<I", stream, place + 24)[0]:end]
        place = end
    out += b"bvx$"
    assert liblzfse.decompress(out) == liblzfse.decompress(stream)
    return out


def plain_header(stream, place, raw):
    first, middle, last = struct.unpack_from("<QQQ", stream, place + 8)
    literals, literal_bytes, matches = (first >> shift & 0xFFFFF for shift in (0, 20, 40))
    match_bytes, size = middle >> 40 & 0xFFFFF, last & 0xFFFFFFFF
    states = [middle >> shift & 0x3FF for shift in (0, 10, 20, 30)]
    more = [last >> shift & 0x3FF for shift in (32, 42, 52)]
    header = struct.pack(
        "<4sIIIIIIi4Hi3H360H2x", b"bvx1", raw, literal_bytes + match_bytes, literals, matches, literal_bytes,
        match_bytes, (first >> 60 & 7) - 7, *states, (middle >> 60 & 7) - 7, *more,
        *frequencies(int.from_bytes(stream[place + 32:place + size], "little")))
    return header, place + size + literal_bytes + match_bytes


def frequencies(bits):
    for _ in range(360):
        if bits & 15 == 15:
            value, used = 24 + (bits >> 4 & 0x3FF), 14
        elif bits & 15 == 7:
            value, used = 8 + (bits >> 4 & 15), 8
        elif bits & 7 == 3:
            value, used = 4 + (bits >> 3 & 3), 5
        elif bits & 3 == 1:
            value, used = 2 + (bits >> 2 & 1), 3
        else:
            value, used = bits >> 1 & 1, 2
        yield value
        bits >>= used


def main():
    raw = os.path.join(FOLDER, "disk.raw")
    with open(raw, "wb") as file:
        file.write(disk())
    dmg_writer.PACK["lzfse1"] = lambda data: plain_tables(liblzfse.compress(data))
    dmg_writer.TYPES["lzfse1"] = dmg_writer.TYPES["lzfse"]
    for name, methods, chunk, parts, old in (
            ("adc", ["adc"], 1 << 20, 1, True), ("zlib", ["zlib"], 1 << 14, 2, False),
            ("bzip2", ["bzip2"], 1 << 16, 2, True), ("lzma", ["lzma"], 1 << 20, 1, False),
            ("lzfse", ["lzfse"], 1 << 20, 1, False), ("lzfse-small", ["lzfse"], 1 << 11, 3, False),
            ("lzfse-plain", ["lzfse1"], 1 << 20, 1, False),
            ("mixed", ["raw", "adc", "zlib", "bzip2", "lzma", "lzfse", "lzfse1"], 1 << 13, 4, False)):
        dmg_writer.write_image(raw, os.path.join(FOLDER, name + ".dmg"), methods, chunk, parts, old)
    os.unlink(raw)


if __name__ == "__main__":
    main()
