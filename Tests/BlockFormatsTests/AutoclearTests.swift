import BlockCore
import BlockFormats
import BlockTestSupport
import Testing

/// Feature bits that a writer clears unless it keeps up to date what they vouch for.
@Suite struct AutoclearTests {
    private static let qcow2 = FormatConfiguration(Qcow2Driver.self, virtualSize: 1 << 20)
    private static let qed = FormatConfiguration(QedDriver.self, virtualSize: 1 << 20)

    enum Way: CaseIterable { case open, repairLeaks, repairAll, look, check }

    private func go(_ way: Way, _ configuration: FormatConfiguration, _ store: TestStore) throws {
        let isReadOnly = way == .look || way == .check
        let node = try configuration.open(
            in: store,
            settings: OpenSettings(readOnly: isReadOnly, forCheck: way != .open && way != .look))
        let mode: RepairMode = way == .repairAll ? .all : way == .repairLeaks ? .leaks : .none
        if way != .open && way != .look {
            _ = try #require(node.format as? any Checkable).check(repair: mode) { _ in }
        }
        try node.close()
    }

    private func store(_ configuration: FormatConfiguration, _ bits: [UInt8], at offset: Int) throws
        -> TestStore
    {
        let store = TestStore()
        _ = try configuration.create(in: store)
        var file = try #require(store["disk"])
        file.write(bits, at: offset)
        store["disk"] = file
        return store
    }

    @Test(arguments: Way.allCases) func qcow2ClearsWhatItDoesNotKnow(_ way: Way) throws {
        let store = try store(Self.qcow2, [0x80, 0, 0, 0, 0, 0, 0, 0x44], at: Qcow2Bytes.Field.autoclear)
        try go(way, Self.qcow2, store)
        let bits = try #require(store["disk"]).read(at: Qcow2Bytes.Field.autoclear, count: 8)
        let isKept = way == .look || way == .check
        #expect(bits == (isKept ? [0x80, 0, 0, 0, 0, 0, 0, 0x44] : [0, 0, 0, 0, 0, 0, 0, 0]))
    }

    @Test(arguments: Way.allCases) func qedClearsAll(_ way: Way) throws {
        let store = try store(Self.qed, [1, 0, 0, 0, 0, 0, 0, 0x80], at: 32)
        try go(way, Self.qed, store)
        let bits = try #require(store["disk"]).read(at: 32, count: 8)
        let isKept = way == .look || way == .check
        #expect(bits == (isKept ? [1, 0, 0, 0, 0, 0, 0, 0x80] : [0, 0, 0, 0, 0, 0, 0, 0]))
    }

    /// Bitmaps are kept up to date, so their bit stays beside one that goes.
    @Test(arguments: [Way.open, .repairLeaks, .repairAll]) func bitmapsStay(_ way: Way) throws {
        var configuration = Self.qcow2
        configuration.bitmaps = [65536]
        let store = try store(configuration, [0x80, 0, 0, 0, 0, 0, 0, 1], at: Qcow2Bytes.Field.autoclear)
        try go(way, configuration, store)
        #expect(try #require(store["disk"]).big(at: Qcow2Bytes.Field.autoclear) == 1)
        let node = try configuration.open(in: store, settings: OpenSettings(readOnly: true))
        let bitmaps = try #require(node.format as? any BitmapCapable).bitmaps()
        #expect(bitmaps.count == 1 && !bitmaps[0].isInconsistent)
        try node.close()
    }

    /// The bit of a raw data file stays with the file.
    @Test(arguments: [Way.open, .repairLeaks, .repairAll]) func rawDataFileStays(_ way: Way) throws {
        let configuration = FormatConfiguration(
            Qcow2Driver.self,
            options: [(name: "data_file", value: "data"), (name: "data_file_raw", value: "on")],
            virtualSize: 1 << 20)
        let store = try store(configuration, [0x80, 0, 0, 0, 0, 0, 0, 2], at: Qcow2Bytes.Field.autoclear)
        try go(way, configuration, store)
        #expect(try #require(store["disk"]).big(at: Qcow2Bytes.Field.autoclear) == 2)
    }
}
