#!/bin/bash
# Takes a file system of real files through everything that platter does to images, and compares every byte.
# Usage: real-disk.sh PLATTER FOLDER   (an empty folder with about 4 GB of room)
set -euo pipefail

platter=$1
cd "$2"
export PATH=$PATH:/usr/sbin:/sbin
wanted_megabytes=520
offset_of_edits=65536

say() { echo "$(date +%T) $*"; }

# Fills `stage` with whole folders of this system.
stage_files() {
    local total=0 folder size
    mkdir -p stage
    for folder in /usr/bin /usr/lib/gcc /usr/libexec /usr/lib/python3* /usr/include /usr/lib/*-linux-gnu /usr/share; do
        [ -d "$folder" ] || continue
        size=$(du -sm "$folder" | cut -f1)
        [ "$size" -le 700 ] || continue
        cp -al "$folder" stage/ 2>/dev/null || cp -a "$folder" stage/
        total=$((total + size))
        [ "$total" -lt "$wanted_megabytes" ] || return 0
    done
    echo "not enough files here: $total MB" >&2
    return 1
}

make_file_system() {
    stage_files
    local size
    size=$(($(du -sm --apparent-size stage | cut -f1) * 5 / 4 + 128))
    truncate -s "${size}M" root.raw
    mke2fs -q -t ext4 -d stage root.raw
    rm -rf stage
    [ "$(du -m root.raw | cut -f1)" -ge 500 ]
}

# Edits the file system in $1: new files, deleted files, folders. $2 makes the names differ.
edit() {
    local name
    {
        echo "mkdir edit-$2"
        for name in bash ls tar grep sed; do
            [ ! -f "/bin/$name" ] || echo "write /bin/$name edit-$2/$name"
        done
        [ "$2" = 1 ] || echo "rm edit-$(($2 - 1))/ls"
    } > commands
    debugfs -w -f commands "$1" > /dev/null 2>&1
    e2fsck -fn "$1" > e2fsck.log 2>&1 || { cat e2fsck.log; return 1; }
}

# Writes to image $1 in place what differs between the raw files $2 and $3.
write_differences() {
    local block
    local -a commands=()
    cmp -l "$2" "$3" | awk -v size="$offset_of_edits" \
        '{ block = int(($1 - 1) / size); if (block != last || NR == 1) print block; last = block }' > blocks || true
    [ -s blocks ]
    mkdir -p pieces
    while read -r block; do
        dd if="$3" of="pieces/$block" bs="$offset_of_edits" skip="$block" count=1 status=none
        commands+=(-c "write -s pieces/$block $((block * offset_of_edits)) $(stat -c %s "pieces/$block")")
    done < blocks
    qemu-io -f qcow2 "${commands[@]}" "$1" > qemu-io.log
    ! grep -i failed qemu-io.log
    rm -rf pieces
}

# Image $1 holds the bytes of the raw file $2, by platter's judgement and by QEMU's; both find it sound.
judge() {
    "$platter" compare -f qcow2 -F raw "$1" "$2" > compare.log
    qemu-img compare -q -f qcow2 -F raw "$1" "$2"
    "$platter" check -q -f qcow2 "$1"
    qemu-img check -q -f qcow2 "$1"
}

say "file system"
make_file_system
say "raw -> qcow2: plain, zlib, zstd"
"$platter" convert -f raw -O qcow2 root.raw plain.qcow2
"$platter" convert -f raw -O qcow2 -c root.raw zlib.qcow2
"$platter" convert -f raw -O qcow2 -c -o compression_type=zstd root.raw zstd.qcow2
for image in plain zlib zstd; do judge $image.qcow2 root.raw; done

say "overlay with edits"
cp --sparse=always root.raw one.raw
edit one.raw 1
"$platter" create -q -f qcow2 -b zlib.qcow2 -F qcow2 over.qcow2
write_differences over.qcow2 root.raw one.raw
judge over.qcow2 one.raw
[ "$(stat -c %s over.qcow2)" -lt "$(($(stat -c %s zlib.qcow2) / 2))" ]

say "snapshots"
"$platter" snapshot -c before over.qcow2
cp --sparse=always one.raw two.raw
edit two.raw 2
write_differences over.qcow2 one.raw two.raw
judge over.qcow2 two.raw
"$platter" snapshot -c after over.qcow2
"$platter" snapshot -a before over.qcow2
judge over.qcow2 one.raw
"$platter" snapshot -a after over.qcow2
judge over.qcow2 two.raw
"$platter" convert -f qcow2 -O raw -l before over.qcow2 before.raw
cmp before.raw one.raw
rm before.raw

say "rebase"
"$platter" rebase -f qcow2 -b zstd.qcow2 -B qcow2 over.qcow2
judge over.qcow2 two.raw
"$platter" rebase -f qcow2 -b plain.qcow2 -B qcow2 over.qcow2
judge over.qcow2 two.raw
rm zlib.qcow2 zstd.qcow2

say "commit"
"$platter" snapshot -d before over.qcow2
"$platter" snapshot -d after over.qcow2
"$platter" commit -q -f qcow2 over.qcow2
judge plain.qcow2 two.raw
judge over.qcow2 two.raw
rm over.qcow2

say "stream"
"$platter" create -q -f qcow2 -b plain.qcow2 -F qcow2 last.qcow2
cp --sparse=always two.raw three.raw
edit three.raw 3
write_differences last.qcow2 two.raw three.raw
"$platter" stream -q -f qcow2 last.qcow2
rm plain.qcow2
judge last.qcow2 three.raw

say "qcow2 -> raw"
"$platter" convert -f qcow2 -O raw last.qcow2 final.raw
cmp final.raw three.raw
e2fsck -fn final.raw > e2fsck.log 2>&1 || { cat e2fsck.log; exit 1; }
say "identical"
