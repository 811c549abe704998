#!/usr/bin/env python3
"""Writes Apple disk images (UDIF) for tests and benchmarks: the chunks of a raw disk, stored as one asks."""

import argparse
import base64
import bz2
import lzma
import struct
import sys
import zlib

SECTOR = 512
ZERO, RAW, IGNORE, COMMENT, END = 0, 1, 2, 0x7FFFFFFE, 0xFFFFFFFF
TYPES = {"raw": RAW, "adc": 0x80000004, "zlib": 0x80000005, "bzip2": 0x80000006, "lzfse": 0x80000007,
         "lzma": 0x80000008}


def adc(data):
    """Apple Data Compression, greedy, with the last place of every three bytes for a dictionary."""
    out, literals, places, place = bytearray(), bytearray(), {}, 0

    def flush():
        for start in range(0, len(literals), 128):
            part = literals[start:start + 128]
            out.append(0x80 | len(part) - 1)
            out.extend(part)
        literals.clear()

    while place < len(data):
        distance = place - places.get(data[place:place + 3], place - 0x20000)
        places[data[place:place + 3]] = place
        length = 0
        if distance <= 0x10000 and place + 3 <= len(data):
            while length < 67 and place + length < len(data) and data[place + length] == \
                    data[place + length - distance]:
                length += 1
        if length >= 4:
            flush()
            if length <= 18 and distance <= 0x400:
                out += struct.pack(">H", (length - 3) << 10 | distance - 1)
            else:
                out += struct.pack(">BH", 0x40 | length - 4, distance - 1)
            place += length
        else:
            literals.append(data[place])
            place += 1
    flush()
    return bytes(out)


def lzfse(data):
    import liblzfse  # pylint: disable=import-error,import-outside-toplevel
    return liblzfse.compress(data)


PACK = {"raw": bytes, "adc": adc, "zlib": zlib.compress, "bzip2": bz2.compress, "lzma": lzma.compress,
        "lzfse": lzfse}


def checksum(value):
    """Type 2 (CRC-32), its size in bits, and the value in a field of 128 bytes."""
    return struct.pack(">III", 2, 32, value) + bytes(124)


class Writer:
    """Appends chunks to `out`; the tables follow at the end."""

    def __init__(self, out, methods, chunk_bytes):
        self.out = out
        self.methods = methods
        self.chunk_bytes = chunk_bytes
        self.tables = []
        self.checksums = []
        self.length = 0
        self.data_crc = 0

    def write(self, data):
        self.out.write(data)
        self.length += len(data)
        self.data_crc = zlib.crc32(data, self.data_crc)

    def table(self, disk, first, count):
        """A table of `count` sectors; `disk` is at the first of them. Zero chunks alternate in kind."""
        entries, sector, crc = [(COMMENT, 0, 0, 0, 0)], 0, 0
        while sector < count:
            sectors = min(self.chunk_bytes // SECTOR, count - sector)
            data = disk.read(sectors * SECTOR).ljust(sectors * SECTOR, b"\0")
            if data.count(0) == len(data):
                kind = (ZERO, IGNORE)[len(entries) % 2]
                entries.append((kind, sector, sectors, self.length, 0))
            else:
                method = self.methods[len(entries) % len(self.methods)]
                packed, kind = PACK[method](data), TYPES[method]
                entries.append((kind, sector, sectors, self.length, len(packed)))
                self.write(packed)
            if kind != IGNORE:
                crc = zlib.crc32(data, crc)
            sector += sectors
        entries.append((END, count, 0, self.length, 0))
        self.checksums.append(crc)
        head = b"mish" + struct.pack(">IQQQII24x", 1, first, count, 0, self.chunk_bytes // SECTOR + 8,
                                     len(self.tables))
        packed = b"".join(struct.pack(">IIQQQQ", kind, 0, *rest) for kind, *rest in entries)
        self.tables.append(head + checksum(crc) + struct.pack(">I", len(entries)) + packed)

    def property_list(self):
        items = "".join(
            f"<dict><key>Attributes</key><string>0x0050</string><key>CFName</key>"
            f"<string>disk &amp; part {number}</string><key>Data</key>\n<data>\n"
            f"{base64.encodebytes(table).decode()}</data>\n<key>ID</key><string>{number}</string></dict>\n"
            for number, table in enumerate(self.tables))
        return (f'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST '
                f'1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n<plist version="1.0">\n<dict>'
                f"<key>resource-fork</key><dict><key>blkx</key><array>\n{items}</array></dict></dict>\n"
                f"</plist>\n").encode()

    def resource_fork(self):
        data, references = b"", b""
        for number, table in enumerate(self.tables):
            references += struct.pack(">hHII", number, 0xFFFF, len(data), 0)
            data += struct.pack(">I", len(table)) + table
        listing = struct.pack(">H4sHH", 0, b"blkx", len(self.tables) - 1, 10) + references
        header = struct.pack(">IIII", 256, 256 + len(data), len(data), 28 + len(listing))
        return header + bytes(240) + data + header + struct.pack(">IHHHH", 0, 0, 0, 28, 28 + len(listing)) \
            + listing

    def finish(self, sectors, old):
        """The tables and the trailer. `old`: in a resource fork, as before 2002."""
        length = self.length
        directory = self.resource_fork() if old else self.property_list()
        places = (length, len(directory), 0, 0) if old else (0, 0, length, len(directory))
        master = zlib.crc32(b"".join(struct.pack(">I", crc) for crc in self.checksums))
        self.out.write(directory)
        self.out.write(
            struct.pack(">4sIIIQQQQQII16x", b"koly", 4, 512, 1, 0, 0, length, *places[:2], 1, 1)
            + checksum(self.data_crc) + struct.pack(">QQ120x", *places[2:]) + checksum(master)
            + struct.pack(">IQ12x", 1, sectors))


def write_image(source, target, methods=("zlib",), chunk_bytes=1 << 20, parts=1, old=False):
    """Makes the image `target` of the raw disk `source` (its size rounded up to whole sectors)."""
    with open(source, "rb") as disk, open(target, "wb") as out:
        sectors = (disk.seek(0, 2) + SECTOR - 1) // SECTOR
        writer = Writer(out, methods, chunk_bytes)
        bounds = [sectors * part // parts for part in range(parts + 1)]
        for first, end in zip(bounds, bounds[1:]):
            disk.seek(first * SECTOR)
            writer.table(disk, first, end - first)
        writer.finish(sectors, old)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default="zlib", help="of: " + ",".join(TYPES))
    parser.add_argument("--chunk", type=int, default=1 << 20, help="bytes a chunk")
    parser.add_argument("--parts", type=int, default=1, help="block tables")
    parser.add_argument("--old", action="store_true", help="with a resource fork")
    parser.add_argument("source")
    parser.add_argument("target")
    options = parser.parse_args()
    write_image(options.source, options.target, options.methods.split(","), options.chunk, options.parts,
                options.old)


if __name__ == "__main__":
    sys.exit(main())
