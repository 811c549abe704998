import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// On a full disk every format refuses a request as if it had never been made.
@Suite struct NoSpaceTests {
    private static func qcow2(
        _ cluster: Int, _ more: [(String, String)] = [], backing: Bool = false, compat: String = "1.1"
    ) -> FormatConfiguration {
        Qcow2ConformanceTests.configuration(cluster: cluster, compat: compat, backing: backing, more: more)
    }

    static let qcow2Kinds: [FormatConfiguration] = [
        qcow2(65536, backing: true), qcow2(512), qcow2(4096, [("lazy_refcounts", "on")]),
        qcow2(4096, [("compression_type", "zstd")], backing: true), qcow2(4096, compat: "0.10"),
        qcow2(16384, [("extended_l2", "on")], backing: true), qcow2(4096, [("data_file", "data")]),
        qcow2(4096, [("preallocation", "metadata")]),
        Qcow2ConformanceTests.recording(qcow2(4096, backing: true)),
    ]

    @Test(.timeLimit(.minutes(5)), arguments: qcow2Kinds)
    func refcountedClusters(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.fullDisk])
    }

    /// Wherever one call fails, the request that needed it takes nothing with it.
    @Test(.timeLimit(.minutes(5)), arguments: qcow2Kinds + otherKinds)
    func aFailedCallLeaksNothing(_ configuration: FormatConfiguration) throws {
        var configuration = configuration
        configuration.keepsSnapshots = false
        if configuration.format.name != "qcow2" { configuration.compresses = false }
        try checkFormatDriver([configuration], phases: [.lostSpace], operations: 30)
    }

    static func simple(
        _ format: any Creatable.Type, _ options: [(String, String)] = [], size: Int, backing: Int? = nil
    ) -> FormatConfiguration {
        FormatConfiguration(
            format, options: options.map { (name: $0.0, value: $0.1) }, virtualSize: size,
            backingSize: backing)
    }

    static let otherKinds: [FormatConfiguration] = [
        simple(QcowDriver.self, size: 300 << 10),
        simple(QedDriver.self, size: 1 << 20),
        simple(
            QedDriver.self, [("cluster_size", "4096"), ("table_size", "1")], size: 300 << 10,
            backing: 200 << 10),
        simple(VdiDriver.self, size: 6 << 20),
        simple(VhdxDriver.self, [("block_size", "1M")], size: 6 << 20),
        simple(ParallelsDriver.self, size: 4 << 20),
    ]
    static let vmdkKinds: [FormatConfiguration] = [
        simple(VmdkDriver.self, size: 1 << 20),
        simple(VmdkDriver.self, [("subformat", "twoGbMaxExtentSparse")], size: 1 << 20),
    ]

    /// What a request over a backing file gives back in the middle of a file is taken again, not cut off.
    private static let overBacking = simple(QcowDriver.self, size: 300 << 10, backing: 200 << 10)

    @Test(.timeLimit(.minutes(5)), arguments: otherKinds + vmdkKinds + [overBacking])
    func otherFormats(_ configuration: FormatConfiguration) throws {
        var configuration = configuration
        configuration.compresses = false
        try checkFormatDriver([configuration], phases: [.fullDisk])
    }
}
