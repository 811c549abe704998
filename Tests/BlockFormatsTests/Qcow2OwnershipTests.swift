import BlockCore
import BlockTestSupport
import Testing

@testable import BlockFormats

/// What parts of an open image may assume of each other.
@Suite struct Qcow2OwnershipTests {
    @Test("refcounts can be used when the tables that loaded them are gone")
    func refcountsOutliveTables() throws {
        let store = TestStore(["disk": Qcow2Bytes().bytes])
        let opener = ImageOpener(registry: store.registry([Qcow2Driver.self]))
        let node = try opener.open("disk", settings: OpenSettings(readOnly: false))
        let driver = try #require(node.format as? Qcow2Driver)
        let header = driver.metadata.withLock { $0.header }
        func load() throws -> Qcow2Allocator {
            let tables = try Qcow2State(file: driver.file, header: header, isReadOnly: false)
            return try tables.refcounts()
        }
        let refcounts = try load()
        #expect(try refcounts.allocate(1) == HostCluster(7))
        try node.close()
    }
}
