"""The commands that prove_faults makes fail: how their images are made, and what must hold afterwards."""

import dataclasses

DATA = "4M"


@dataclasses.dataclass
class Case:
    """A command on images in a folder of its own.

    IMAGE in the command is the image that faults are injected into. Every line is shell, in which `platter`
    is the program; `done` lines succeed only once the work is done, `kept` lines hold after a failure too.
    """
    name: str
    setup: tuple
    command: str
    image: str
    done: tuple
    kept: tuple = ()
    # Images that must be sound after any end, as FORMAT:FILE; a missing file is sound.
    sound: tuple = ()
    # Whether the command's image can be opened through a filter.
    filters: bool = True
    # Whether the kernel may refuse what the command needs.
    may_be_refused: bool = False

    @property
    def image_format(self):
        """The format of the image; only qcow2 has the commands that name none."""
        return self.name.partition(", ")[2].split(" ")[0] or "qcow2"

    @property
    def grows(self):
        """Whether the command makes files much longer, so that a limit of their size stops it."""
        return self.name.startswith(("convert", "commit", "stream", "rebase to nothing"))


def same(first, second):
    """Two images, as FORMAT:FILE, hold the same bytes."""
    (f, a), (g, b) = (text.split(":", 1) for text in (first, second))
    return f"platter compare -q -f {f} -F {g} {a} {b}"


RAW = (
    "head -c 1M /dev/urandom > noise && truncate -s 4M data.raw && dd if=noise of=data.raw bs=64k seek=3 "
    "count=12 conv=notrunc status=none && dd if=noise of=data.raw bs=64k seek=40 conv=notrunc status=none",
)


def chain(fmt, options=""):
    """An overlay `top` of that format over `base`, and `before.raw` with what the guest sees."""
    o = f"-o {options}" if options else ""
    return RAW + (
        f"platter convert -q -f raw -O {fmt} {o} data.raw base",
        f"platter create -q -f {fmt} {o} -b base -F {fmt} top",
        f"platter io -f {fmt} -c 'write -q -P 5 100k 300k' -c 'write -q -P 6 2M 70k' top",
        f"platter convert -q -f {fmt} -O raw top before.raw")


def on_chain(fmt, options=""):
    """The commands that work within a backing chain."""
    both = (f"{fmt}:top", f"{fmt}:base")
    kept = (same(f"{fmt}:top", "raw:before.raw"),)
    label = f"{fmt} {options}".strip()
    made = chain(fmt, options)
    other = made + (f"cp base other && platter io -f {fmt} -c 'write -q -P 9 1M 200k' other",)
    alone = f"platter info -f {fmt} top >text && ! grep -q '^backing' text"
    yield Case(f"commit, {label}", made, f"platter commit -q -f {fmt} IMAGE", "top",
               (same(f"{fmt}:base", "raw:before.raw"),) + kept, kept, both)
    yield Case(f"rebase, {label}", other, f"platter rebase -q -f {fmt} -b other -F {fmt} IMAGE", "top",
               (f"platter info -f {fmt} top | grep -q '^backing file: other'",) + kept, kept,
               both + (f"{fmt}:other",))
    yield Case(f"rebase to nothing, {label}", made, f"platter rebase -q -f {fmt} -b '' IMAGE", "top",
               (alone,) + kept, kept, both)
    yield Case(f"stream, {label}", made, f"platter stream -q -f {fmt} IMAGE", "top", (alone,) + kept, kept,
               both)


def image(fmt, options=""):
    """One image `top` with the data."""
    o = f"-o {options}" if options else ""
    return RAW + (f"platter convert -q -f raw -O {fmt} {o} data.raw top",)


def on_image(fmt, options=""):
    """Making an image, filling it, and changing its size."""
    label = f"{fmt} {options}".strip()
    o = f"-o {options}" if options else ""
    empty = RAW + ("truncate -s 4M empty.raw",)
    sound = (f"{fmt}:top",)
    yield Case(f"create, {label}", empty, f"platter create -q -f {fmt} {o} top {DATA}", "top",
               (same(f"{fmt}:top", "raw:empty.raw"),), sound=sound, filters=False)
    yield Case(f"convert, {label}", RAW, f"platter convert -q -f raw -O {fmt} {o} data.raw top", "top",
               (same(f"{fmt}:top", "raw:data.raw"),), sound=sound, filters=False)
    yield Case(f"convert -n, {label}", empty + (f"platter create -q -f {fmt} {o} top {DATA}",),
               f"platter convert -q -n -f raw -O {fmt} data.raw IMAGE", "top",
               (same(f"{fmt}:top", "raw:data.raw"),), sound=sound)
    yield Case(f"io write, {label}", image(fmt, options) + (
        "cp data.raw after.raw && platter io -f raw -c 'write -q -P 7 1M 300k' after.raw",),
               f"platter io -f {fmt} -c 'write -q -P 7 1M 300k' -c flush IMAGE", "top",
               (same(f"{fmt}:top", "raw:after.raw"),), sound=sound)


def engines():
    """Writes that reach the file by a ring or a queue."""
    write = "-c 'write -q -P 7 1M 300k'"
    after = image("qcow2") + (f"cp data.raw after.raw && platter io -f raw {write} after.raw",)
    for engine in ("-i io_uring", "-t none -i native"):
        yield Case(f"io write, qcow2 {engine}", after,
                   f"platter io {engine} -f qcow2 {write} -c flush IMAGE", "top",
                   (same("qcow2:top", "raw:after.raw"),), sound=("qcow2:top",), may_be_refused=True)


def grown(fmt, options=""):
    kept = (f"platter convert -q -f {fmt} -O raw top now.raw && cmp -n 4194304 now.raw data.raw",)
    yield Case(f"resize, {fmt} {options}".strip(), image(fmt, options),
               f"platter resize -q -f {fmt} IMAGE 9M", "top",
               kept + (f"platter info -f {fmt} top | grep -q '9437184 bytes'",), kept, (f"{fmt}:top",))


def qcow2():
    """What only qcow2 has."""
    options = "cluster_size=4k"
    made, sound = image("qcow2", options), ("qcow2:top",)
    kept = (same("qcow2:top", "raw:data.raw"),)
    snapshots = made + ("platter snapshot -c one top",
                        "cp data.raw after.raw && platter io -f raw -c 'write -q -P 7 1M 300k' after.raw",
                        "platter io -f qcow2 -c 'write -q -P 7 1M 300k' top")
    listed = "platter snapshot -l top | grep -q ' {} '"
    yield Case("convert -c", RAW, "platter convert -q -c -f raw -O qcow2 data.raw top", "top", kept,
               sound=sound, filters=False)
    yield Case("snapshot -c", made, "platter snapshot -c new IMAGE", "top",
               kept + (listed.format("new"),), kept, sound)
    yield Case("snapshot -a", snapshots, "platter snapshot -a one IMAGE", "top", kept,
               (f"{kept[0]} || {same('qcow2:top', 'raw:after.raw')}",), sound)
    after = (same("qcow2:top", "raw:after.raw"),)
    yield Case("snapshot -d", snapshots, "platter snapshot -d one IMAGE", "top",
               after + ("! " + listed.format("one"),), after, sound)
    yield Case("resize --shrink", made, "platter resize -q -f qcow2 --shrink IMAGE 3M", "top",
               ("platter info -f qcow2 top | grep -q '3145728 bytes'",
                "platter convert -q -f qcow2 -O raw top now.raw && cmp -n 3145728 now.raw data.raw"),
               ("platter convert -q -f qcow2 -O raw top now.raw && cmp -n 3145728 now.raw data.raw",), sound)
    yield Case("amend", made, "platter amend -q -f qcow2 -o compat=0.10 IMAGE", "top",
               kept + ("platter info -f qcow2 top | grep -q 'compat: 0.10'",), kept, sound)
    yield Case("bitmap --add", made, "platter bitmap --add -f qcow2 IMAGE b", "top",
               kept + ("platter info -f qcow2 top | grep -q 'name: b'",), kept, sound)
    leaky = made + ("platter io -f qcow2 -c 'write -q -P 5 0 128k' -c abort top 2>/dev/null; true",
                    "printf '\\001' | dd of=top bs=1 seek=$((2*4096+500)) conv=notrunc status=none")
    yield Case("check -r", leaky, "platter check -q -f qcow2 -r all IMAGE", "top",
               ("platter check -q -f qcow2 top",), sound=(), filters=True)


def cases():
    """All of them."""
    for fmt, options in [("qcow2", "cluster_size=4k"), ("qcow", ""), ("qed", ""), ("vmdk", ""),
                         ("vpc", "force_size=on"), ("vhdx", "block_size=1M")]:
        yield from on_chain(fmt, options)
    for fmt, options in [("raw", ""), ("qcow2", ""), ("qcow", ""), ("qed", ""), ("vdi", ""), ("vmdk", ""),
                         ("vpc", "force_size=on"), ("vhdx", "block_size=1M"), ("parallels", "")]:
        yield from on_image(fmt, options)
    for fmt, options in [("raw", ""), ("qcow2", "cluster_size=4k"), ("qed", ""), ("vdi", ""),
                         ("vhdx", "block_size=1M"), ("parallels", "")]:
        yield from grown(fmt, options)
    yield from qcow2()
    yield from engines()
