import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// What the qcow2 driver promises, on images with extended L2 entries.
@Suite struct Qcow2SubclusterTests {
    static let kinds: [FormatConfiguration] = [
        configuration(cluster: 16384),
        configuration(cluster: 16384, backing: true),
        configuration(cluster: 65536, backing: true, [("lazy_refcounts", "on")]),
        configuration(cluster: 16384, backing: true, [("data_file", "data")]),
        configuration(cluster: 32768, [("data_file", "data"), ("data_file_raw", "on")]),
        configuration(cluster: 16384, backing: true, [("preallocation", "metadata")]),
        configuration(cluster: 2 << 20, backing: true),
        Qcow2ConformanceTests.recording(configuration(cluster: 16384, backing: true)),
        encrypted(configuration(cluster: 16384)),
        Qcow2ConformanceTests.recording(encrypted(configuration(cluster: 32768, backing: true))),
        encrypted(configuration(cluster: 16384, backing: true, [("preallocation", "metadata")])),
        Qcow2ConformanceTests.recording(
            encrypted(configuration(cluster: 16384, backing: true, [("data_file", "data")]))),
    ]

    static let sizes: [FormatConfiguration] = (14...21).map { bits in
        configuration(cluster: 1 << bits, backing: bits % 2 == 0)
    }

    private static func encrypted(_ configuration: FormatConfiguration) -> FormatConfiguration {
        Qcow2EncryptionTests.encrypted(configuration, "luks")
    }

    static func configuration(
        cluster: Int, backing: Bool = false, _ more: [(String, String)] = []
    ) -> FormatConfiguration {
        Qcow2ConformanceTests.configuration(
            cluster: cluster, backing: backing, more: [("extended_l2", "on")] + more)
    }

    @Test(.timeLimit(.minutes(5)), arguments: kinds + sizes)
    func randomOperations(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.edges, .random])
    }

    @Test(.timeLimit(.minutes(5)), arguments: kinds)
    func concurrency(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.concurrency])
    }

    @Test(.timeLimit(.minutes(5)), arguments: kinds)
    func crashes(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.crash])
    }

    @Test(.timeLimit(.minutes(5)), arguments: kinds)
    func failedCalls(_ configuration: FormatConfiguration) throws {
        try checkFormatDriver([configuration], phases: [.faults, .life])
    }
}
