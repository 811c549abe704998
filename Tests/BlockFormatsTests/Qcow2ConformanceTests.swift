import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What the qcow2 driver promises, over cluster sizes, refcount widths and versions.
@Suite struct Qcow2ConformanceTests {
    static let clusterSizes = (9...21).map { 1 << $0 }
    static let refcountBits = [1, 2, 4, 8, 16, 32, 64]

    /// An image of some dozens of clusters, whose size is no multiple of the cluster size.
    static func configuration(
        cluster: Int, refcountBits: Int = 16, compat: String = "1.1", backing: Bool = false,
        more: [(String, String)] = []
    ) -> FormatConfiguration {
        let size = cluster * max(4, min(40, (1 << 20) / cluster)) + cluster / 1024 * 512 + 512
        var options = [("cluster_size", "\(cluster)"), ("compat", compat)]
        if compat != "0.10" { options.append(("refcount_bits", "\(refcountBits)")) }
        var configuration = FormatConfiguration(
            Qcow2Driver.self, options: (options + more).map { (name: $0.0, value: $0.1) }, virtualSize: size,
            backingSize: backing ? size * 2 / 3 / 512 * 512 + 256 : nil)
        // Version 2 has no dirty bit: refcounts and "copied" flags cannot change as one.
        configuration.checkMayRepairAfterCrash = compat == "0.10"
        let hasDataFile = more.contains { $0.0 == "data_file" }
        configuration.compresses = !hasDataFile
        configuration.keepsSnapshots = !hasDataFile
        return configuration
    }

    /// All combinations in a long run; else every value of each at least once.
    static var matrix: [FormatConfiguration] {
        var all: [FormatConfiguration] = []
        for (index, cluster) in clusterSizes.enumerated() {
            let sampled = [refcountBits[index % refcountBits.count]]
            for bits in TestEffort.isLong ? refcountBits : sampled {
                all.append(configuration(cluster: cluster, refcountBits: bits, backing: index % 2 == 0))
            }
            if TestEffort.isLong || index % 4 == 0 {
                all.append(configuration(cluster: cluster, compat: "0.10", backing: index % 2 == 1))
            }
        }
        return all + [4096, 65536].map { recording(configuration(cluster: $0, backing: true)) }
    }

    /// Images whose data is in a file of its own.
    static let dataFiles: [FormatConfiguration] = [
        configuration(cluster: 4096, more: [("data_file", "data")]),
        configuration(cluster: 65536, backing: true, more: [("data_file", "data")]),
        configuration(cluster: 4096, more: [("data_file", "data"), ("data_file_raw", "on")]),
        configuration(cluster: 512, more: [("data_file", "data"), ("lazy_refcounts", "on")]),
        configuration(cluster: 2 << 20, more: [("data_file", "data"), ("data_file_raw", "on")]),
    ]

    @Test(.timeLimit(.minutes(5)), arguments: matrix + dataFiles)
    func randomOperations(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.edges, .random])
    }

    /// The kinds of images that write their tables in different ways.
    static let kinds: [FormatConfiguration] = [
        configuration(cluster: 65536, backing: true),
        configuration(cluster: 512, refcountBits: 16),
        configuration(cluster: 4096, refcountBits: 64, backing: true),
        configuration(cluster: 4096, refcountBits: 1),
        configuration(cluster: 4096, compat: "0.10", backing: true),
        configuration(cluster: 4096, more: [("lazy_refcounts", "on")]),
        configuration(cluster: 4096, more: [("preallocation", "metadata")]),
        configuration(cluster: 4096, backing: true, more: [("compression_type", "zstd")]),
        configuration(cluster: 2 << 20),
        recording(configuration(cluster: 512, refcountBits: 8)),
        recording(configuration(cluster: 4096, backing: true)),
        recording(configuration(cluster: 65536, more: [("lazy_refcounts", "on")])),
    ]
    static var allKinds: [FormatConfiguration] { kinds + dataFiles }

    /// The same with bitmaps that record what is written.
    static func recording(_ configuration: FormatConfiguration) -> FormatConfiguration {
        var configuration = configuration
        configuration.bitmaps = [512, 65536]
        return configuration
    }

    private static func rounds(_ configuration: FormatConfiguration) -> Int {
        configuration.virtualSize < 65536 ? 4 : 1
    }

    @Test(.timeLimit(.minutes(5)), arguments: allKinds)
    func concurrency(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.concurrency])
    }

    @Test(.timeLimit(.minutes(5)), arguments: allKinds)
    func crashes(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.crash], rounds: Self.rounds(configuration))
    }

    @Test(.timeLimit(.minutes(5)), arguments: allKinds)
    func failedCalls(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.faults, .life], rounds: Self.rounds(configuration))
    }
}
