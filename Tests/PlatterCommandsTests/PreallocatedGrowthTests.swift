import BlockTestSupport
import Testing

/// After growing with preallocation, writing to the new space takes no more of the host's.
@Suite struct PreallocatedGrowthTests: CommandSuite {
    let fixture: CommandFixture
    init() throws { fixture = try CommandFixture() }

    private static let images = [
        "raw", "qcow2", "qcow2 -o cluster_size=2M", "qcow2 -o compat=0.10", "qcow2 -o extended_l2=on",
    ]

    @Test(arguments: images, ["metadata", "falloc", "full"])
    func theLastClusterIsIncluded(_ image: String, _ mode: String) throws {
        if image == "raw" && mode == "metadata" { return }
        let format = image.split(separator: " ")[0]
        for size in ["51712", "100k", "3M"] {
            let line = """
                set -e; rm -f x; qemu-img create -q -f \(image) x \(size)
                qemu-img resize -q -f \(format) --preallocation=\(mode) x 6M
                stat -c %s x
                qemu-io -f \(format) -c 'write \(size) 4k' -c 'write 4M 1M' -c 'write 6143k 1k' x > /dev/null
                stat -c %s x
                qemu-img check -q -f \(format) x || [ \(format) = raw ]
                """
            let outcome = try fixture.shell(line, linked: true)
            let lengths = outcome.output.split(separator: "\n")
            #expect(lengths.count == 2 && lengths[0] == lengths[1], "\(size): \(outcome.text)")
            #expect(outcome.status == 0, "\(size): \(outcome.text)")
        }
    }

    /// Growing adds refcount blocks between the new clusters: one for each 128 KiB with 512-byte clusters, one
    /// for each 2 MiB with clusters of 4 KiB and 64-bit refcounts. What lies around them is allocated too.
    @Test(
        arguments: [
            "cluster_size=512", "cluster_size=4k", "cluster_size=4k,refcount_bits=64",
            "cluster_size=512,compat=0.10",
        ], ["falloc", "full"])
    func spaceAcrossRefcountBlocksIsAllocated(_ options: String, _ mode: String) throws {
        let line = """
            set -e; qemu-img create -q -f qcow2 -o \(options) x 1M
            qemu-img resize -q --preallocation=\(mode) x 24M
            echo $(( $(stat -c %b x) * 512 ))
            qemu-img check -q x
            qemu-io -c 'write -q 1M 23M' x
            echo $(( $(stat -c %b x) * 512 ))
            """
        let outcome = try fixture.shell(line, linked: true)
        let bytes = outcome.output.split(separator: "\n").compactMap { Int($0) }
        let grown = 23 << 20
        #expect(outcome.status == 0 && bytes.count == 2, "\(outcome.text)")
        #expect(bytes.allSatisfy { $0 >= grown }, "\(bytes) bytes are allocated, not \(grown)")
        // The file system may add a block of its own extent tree.
        #expect((bytes.last ?? 0) - (bytes.first ?? 0) <= 64 << 10, "writing took more space: \(bytes)")
    }

    /// What the last cluster showed of its backing file stays.
    @Test func theBackingFileStillShowsInTheLastCluster() throws {
        let line = """
            set -e; qemu-img create -q -f raw b 100k; qemu-io -f raw -c 'write -P 7 0 100k' b > /dev/null
            qemu-img create -q -f qcow2 -b b -F raw o
            qemu-img resize -q --preallocation=falloc o 1M
            qemu-io -c 'read -P 7 0 100k' -c 'read -P 0 100k 924k' o
            """
        let outcome = try fixture.shell(line, linked: true)
        #expect(outcome.status == 0 && !outcome.text.contains("verification failed"), "\(outcome.text)")
    }
}
