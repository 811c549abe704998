"""Writes the guest's bytes of an image, as dissect.hypervisor reads them: dissect_read.py FORMAT IMAGE OUT [PARENT]"""

import pathlib
import sys

from dissect.hypervisor.disk import hdd, qcow2, vdi, vhd, vhdx, vmdk

PIECE = 1 << 20


def open_image(kind, path, parent):
    if kind == "qcow2":
        return qcow2.QCow2(path, backing_file=parent).open()
    if kind == "vdi":
        return vdi.VDI(path, parent).open()
    if kind == "vpc":
        return vhd.VHD(path.open("rb"))
    if kind == "parallels":
        return hdd.HDS(path.open("rb"), parent)
    return {"vhdx": vhdx.VHDX, "vmdk": vmdk.VMDK}[kind](path)


def main():
    kind, image, out = sys.argv[1:4]
    parent = open(sys.argv[4], "rb") if len(sys.argv) > 4 else None
    disk = open_image(kind, pathlib.Path(image), parent)
    with open(out, "wb") as file:
        done = 0
        while done < disk.size:
            piece = disk.read(min(PIECE, disk.size - done))
            if not piece:
                sys.exit(f"the disk ends after {done} of {disk.size} bytes")
            if piece.count(0) != len(piece):
                file.seek(done)
                file.write(piece)
            done += len(piece)
        file.truncate(disk.size)


main()
