"""The images that Scripts/bench works on: made once in a folder, of real files, by qemu-img.

Only dmg images, which qemu-img cannot make, are made here.
"""

import os
import random
import shutil
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path.append(os.path.join(TOP, "Tests", "Scripts"))
import dmg_writer  # noqa: E402

MIB = 1 << 20
SECRET = ["--object", "secret,id=s0,data=bench"]


def run(*command, **more):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **more)


class Inputs:
    """Image files in `folder`. Each is made when it is first asked for; sizes are in bytes."""

    def __init__(self, folder, quick):
        self.folder = folder
        self.disk_bytes = (64 if quick else 1024) * MIB
        self.huge = "64G" if quick else "1T"
        self.fragments = 4_000 if quick else 32_768

    def path(self, name):
        return os.path.join(self.folder, name)

    def get(self, name):
        """The path of the image `name`, which is made now if it is not there."""
        path = self.path(name)
        if not os.path.exists(path):
            maker = getattr(self, name.replace(".", "_").replace("-", "_"), None)
            if maker:
                maker(path)
            else:
                self.converted(name, path)
            os.sync()
        return path

    def converted(self, name, path):
        """`disk.FORMAT`: the disk in that format."""
        run("qemu-img", "convert", "-O", name.removeprefix("disk."), self.get("disk.raw"), path)

    def disk_raw(self, path):
        """A file system half full of real files; the other half is holes."""
        stage = self.path("stage")
        copy_files("/usr", stage, self.disk_bytes // 2)
        run("truncate", "-s", str(self.disk_bytes), path)
        run("mke2fs", "-q", "-t", "ext4", "-d", stage, path, stderr=subprocess.DEVNULL)
        shutil.rmtree(stage)

    def zlib_qcow2(self, path):
        run("qemu-img", "convert", "-c", "-O", "qcow2", self.get("disk.raw"), path)

    def stream_vmdk(self, path):
        options = ["-O", "vmdk", "-o", "subformat=streamOptimized"]
        run("qemu-img", "convert", *options, self.get("disk.raw"), path)

    def disk_dmg(self, path):
        dmg_writer.write_image(self.get("disk.raw"), path)

    def empty_luks(self, path):
        """A LUKS volume as large as the disk. QEMU may fail to measure the time that keys take: try again."""
        options = ["-o", "key-secret=s0,iter-time=10", path, str(self.disk_bytes)]
        command = ["qemu-img", "create", "-f", "luks", *SECRET, *options]
        for _ in range(100):
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return
        run(*command)

    def disk_luks(self, path):
        shutil.copyfile(self.get("empty.luks"), path)
        target = f"driver=luks,key-secret=s0,file.filename={path}"
        disk = self.get("disk.raw")
        run("qemu-img", "convert", *SECRET, "-n", "-f", "raw", "--target-image-opts", disk, target)

    def empty_qcow2(self, path):
        run("qemu-img", "create", "-f", "qcow2", path, self.huge)

    def small_empty_qcow2(self, path):
        run("qemu-img", "create", "-f", "qcow2", path, "1G")

    def far_qcow2(self, path):
        run("qemu-img", "create", "-f", "qcow2", "-o", "preallocation=metadata", path, "64G")

    def tables_qcow2(self, path):
        run("qemu-img", "create", "-f", "qcow2", "-o", "preallocation=metadata", path, self.huge)

    def small_tables_qcow2(self, path):
        run("qemu-img", "create", "-f", "qcow2", "-o", "preallocation=metadata", path, "1G")

    def full_raw(self, path):
        """What an overlay is committed to: as large as a quarter of the disk, and all data."""
        run("qemu-img", "create", "-f", "raw", path, str(self.disk_bytes // 4))
        run("qemu-io", "-f", "raw", "-t", "unsafe", "-c", f"write -q -P 7 0 {self.disk_bytes // 4}", path)

    def full_qcow2(self, path):
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.get("full.raw"), path)

    def overlay_qcow2(self, path):
        """An image of the size of full.raw, whose clusters were all written, in random order."""
        cluster = 64 << 10
        size = self.disk_bytes // 4
        run("qemu-img", "create", "-f", "qcow2", path, str(size))
        places = random.Random(5).sample(range(size // cluster), size // cluster)
        script = "".join(
            f"write -q -P {place % 255 + 1} {place * cluster} {cluster}\n" for place in places)
        run("qemu-io", "-f", "qcow2", "-t", "unsafe", path, input=script.encode())

    def fragmented_qcow2(self, path):
        self.fragmented(path, 64 << 30)

    def small_fragmented_qcow2(self, path):
        self.fragmented(path, 1 << 30)

    def fragmented(self, path, size):
        """Clusters written in random order at random places."""
        cluster = 16 << 10
        run("qemu-img", "create", "-f", "qcow2", "-o", f"cluster_size={cluster}", path, str(size))
        places = random.Random(7).sample(range(size // cluster), self.fragments)
        script = "".join(f"write -q -P 90 {place * cluster} {cluster}\n" for place in places)
        run("qemu-io", "-f", "qcow2", "-t", "unsafe", path, input=script.encode())


def copy_files(source, target, limit):
    """Copies regular files from below `source`, in sorted order, until `limit` bytes are there."""
    total = 0
    for folder, folders, files in os.walk(source):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            if not os.path.isfile(path) or os.path.islink(path) or not os.access(path, os.R_OK):
                continue
            size = os.path.getsize(path)
            if total + size > limit * 9 // 10:
                continue
            place = os.path.join(target, os.path.relpath(folder, source))
            os.makedirs(place, exist_ok=True)
            shutil.copyfile(path, os.path.join(place, name))
            total += size
        if total > limit * 8 // 10:
            return
