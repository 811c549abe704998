import BlockTestSupport
import Foundation
import Testing

/// Whether holes of the file lie behind data is found out from refcounts, which may be damaged.
@Suite struct HoleEstimateTests {
    @Test("refcounts that cannot be read are no reason to call holes data")
    func damagedRefcounts() throws {
        let fixture = try CommandFixture()
        let options = "preallocation=metadata,cluster_size=512"
        #expect(try fixture.platter("create", "-q", "-f", "qcow2", "-o", options, "a", "8M").status == 0)
        func holes() throws -> String {
            try fixture.platter("map", "--output=json", "a").text
        }
        let sound = try holes()
        #expect(sound.contains(#""zero": true, "data": true"#))
        // The place of the first refcount block becomes one where none can be.
        var bytes = try fixture.read("a")
        let table = SparseBytes(bytes).big(at: Qcow2Bytes.Field.refcountOffset)
        bytes[table + 6] ^= 1
        let file = try FileHandle(forWritingTo: URL(filePath: fixture.path("a")))
        try file.seek(toOffset: UInt64(table))
        try file.write(contentsOf: Data(bytes[table..<table + 8]))
        try file.close()
        #expect(try holes() == sound)
    }
}
