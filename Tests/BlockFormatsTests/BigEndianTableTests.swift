import BlockCore
import BlockTestSupport
import Testing

@testable import BlockFormats

/// Tables of numbers, where the file ends before they do.
@Suite struct BigEndianTableTests {
    /// Entries behind the end are zero, and what is missing of one that the end cuts too.
    @Test(
        arguments: [
            (0, [0, 0, 0, 0]), (8, [0, 0, 0, 0]), (11, [0x0102_0300_0000_0000, 0, 0, 0]),
            (16, [0x0102_0304_0506_0708, 0, 0, 0]),
            (24, [0x0102_0304_0506_0708, 0x090a_0b0c_0d0e_0f10, 0, 0]),
            (
                64,
                [
                    0x0102_0304_0506_0708, 0x090a_0b0c_0d0e_0f10, 0x1112_1314_1516_1718,
                    0x191a_1b1c_1d1e_1f20,
                ]
            ),
        ] as [(Int, [UInt64])])
    func cut(_ length: Int, _ expected: [UInt64]) throws {
        let bytes = [UInt8](repeating: 0xee, count: 8) + (1...56).map { UInt8($0) }
        let store = TestStore(["disk": SparseBytes(Array(bytes.prefix(length)))])
        let node = BlockNode(.storage(store.disk("disk")), filename: "disk", settings: OpenSettings())
        #expect(try BigEndianTable.read(node, at: 8, count: 4) == expected)
    }
}
