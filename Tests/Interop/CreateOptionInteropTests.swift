import BlockTestSupport
import Foundation
import Testing

/// Images with every create option, written by one program and judged by the other.
@Suite(.serialized) struct CreateOptionInteropTests {
    static let options: [String] = [
        "cluster_size=512", "cluster_size=1k", "cluster_size=2k", "cluster_size=4k", "cluster_size=8k",
        "cluster_size=16k", "cluster_size=32k", "cluster_size=64k", "cluster_size=128k", "cluster_size=256k",
        "cluster_size=512k", "cluster_size=1M", "cluster_size=2M", "compat=0.10",
        "compat=v2,cluster_size=512",
        "compat=1.1", "compat=v3", "lazy_refcounts=on", "lazy_refcounts=on,cluster_size=4k",
        "refcount_bits=1",
        "refcount_bits=2", "refcount_bits=4", "refcount_bits=8", "refcount_bits=32", "refcount_bits=64",
        "refcount_bits=1,cluster_size=512", "refcount_bits=64,cluster_size=512", "compression_type=zstd",
        "compression_type=zlib", "preallocation=off", "preallocation=metadata", "preallocation=falloc",
        "preallocation=full", "preallocation=metadata,cluster_size=4k", "preallocation=full,compat=0.10",
        "nocow=on", "nocow=off", "extent_size_hint=1M",
        "extended_l2=on", "extended_l2=on,cluster_size=16k", "extended_l2=on,cluster_size=2M",
        "extended_l2=on,preallocation=metadata", "extended_l2=on,compression_type=zstd",
        "data_file=data.raw", "data_file=data.raw,cluster_size=4k", "data_file=data.raw,data_file_raw=on",
        "data_file=data.raw,preallocation=full", "extended_l2=on,data_file=data.raw",
    ]
    /// No multiple of most cluster sizes.
    private static let size = 5 * 1024 * 1024 + 512

    private func must(_ fixture: CommandFixture, _ script: String) throws {
        let outcome = try fixture.shell("set -eu\nP=\(CommandFixture.platter.path)\n\(script)")
        try #require(outcome.status == 0, "\(outcome.output) \(outcome.error)\nin \(script)")
    }

    /// Reads the image with both, and has both check it.
    private static let agree = """
        qemu-img check -q disk.qcow2
        $P check -q disk.qcow2
        qemu-img convert -f qcow2 -O raw disk.qcow2 theirs.raw
        $P convert -f qcow2 -O raw disk.qcow2 ours.raw
        cmp theirs.raw ours.raw
        cmp want.raw ours.raw
        qemu-img map --output=json disk.qcow2 | sed 's/, "compressed": [a-z]*//' > theirs.map
        $P map --output=json disk.qcow2 | sed 's/, "compressed": [a-z]*//' > ours.map
        if qemu-img info disk.qcow2 | grep -Eq 'extended l2: true|file raw: true'; then
            python3 runs.py < theirs.map > theirs.runs
            python3 runs.py < ours.map > ours.runs
            diff theirs.runs ours.runs
        else
            diff theirs.map ours.map
        fi
        """

    /// The runs of a map without the place of what is not there, which qemu-img tells of for subclusters, and
    /// without holes behind data, which it asks for where the image's own file looks preallocated.
    private static let runs = """
        import json, sys
        last = None
        for run in json.load(sys.stdin):
            if run["data"]:
                run["zero"] = False
            else:
                run.pop("offset", None)
            same = last and all(last.get(k) == run.get(k) for k in ("depth", "present", "zero", "data"))
            end = last["offset"] + last["length"] if last and "offset" in last else None
            if same and (not run["data"] or end == run.get("offset")):
                last["length"] += run["length"]
                continue
            if last:
                print(last)
            last = run
        print(last)
        """

    @Test("what qemu-img makes reads back the same", .timeLimit(.minutes(5)), arguments: options)
    func theirs(options: String) throws {
        let fixture = try CommandFixture()
        try fixture.write("runs.py", Array(Self.runs.utf8))
        try must(
            fixture,
            """
            qemu-img create -q -f raw want.raw \(Self.size)
            qemu-img create -q -f qcow2 -o \(options) disk.qcow2 \(Self.size)
            for image in "raw want.raw" "qcow2 disk.qcow2"; do
                set -- $image
                qemu-io -f $1 -c 'write -P 17 0 512' -c 'write -P 18 70k 1000k' -c 'write -P 19 2M 3072k' \\
                    -c 'write -z 2200k 300k' -c 'write -z -u 4M 512k' -c 'write -P 20 5242880 512' $2 > log
            done
            \(Self.agree)
            """)
    }

    @Test("what Platter makes is right for qemu-img", .timeLimit(.minutes(5)), arguments: options)
    func ours(options: String) throws {
        let fixture = try CommandFixture()
        try fixture.write("runs.py", Array(Self.runs.utf8))
        let compresses = options.contains("preallocation") || options.contains("data_file") ? "" : "-c"
        try must(
            fixture,
            """
            head -c 700000 /bin/bash > want.raw
            truncate -s 3M want.raw
            head -c 900000 /dev/urandom >> want.raw
            truncate -s \(Self.size) want.raw
            $P create -q -f qcow2 -o \(options) disk.qcow2 \(Self.size)
            qemu-img check -q disk.qcow2
            $P convert -n -f raw -O qcow2 want.raw disk.qcow2
            \(Self.agree)
            rm disk.qcow2
            $P convert \(compresses) -f raw -O qcow2 -o \(options) want.raw disk.qcow2
            \(Self.agree)
            """)
    }
}
