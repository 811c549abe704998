import BlockCore

/// The resource fork of a file of the classic Mac OS, in which images from before 2002 keep their tables.
/// Big-endian ("Inside Macintosh: More Macintosh Toolbox", chapter 1):
///
/// ```
/// 00 offset of data  04 offset of the map  08 length of data  0C length of the map
/// map:  18 offset of the list of types (2, from the map)
/// list: 00 types - 1 (2), then for each: 00 type (4)  04 resources - 1 (2)  06 offset of references (2)
/// reference: 00 ID (2)  02 name (2)  04 attributes (1)  05 offset (3, from the data)  08 reserved (4)
/// data: 00 length (4), then the bytes
/// ```
enum DmgResourceFork {
    private static let typeBytes = 8
    private static let referenceBytes = 12

    /// The places in `fork` of the resources of a type, in the order of the map.
    ///
    /// - Throws: `corrupt`.
    static func resources(of type: String, in fork: RawSpan) throws(BlockError) -> [Range<Int>] {
        guard let data: UInt32 = fork.bigEndian(at: 0), let map: UInt32 = fork.bigEndian(at: 4),
            let listOffset: UInt16 = fork.bigEndian(at: Int(map) + 0x18)
        else { throw damaged }
        let list = Int(map) + Int(listOffset)
        let types: UInt16 = fork.bigEndian(at: list) ?? .max
        // A count of all ones stands for no types.
        for number in 0..<Int(types &+ 1) {
            let entry = list + 2 + number * typeBytes
            guard let name = fork.part(entry..<entry + 4), let last: UInt16 = fork.bigEndian(at: entry + 4),
                let references: UInt16 = fork.bigEndian(at: entry + 6)
            else { throw damaged }
            guard name.array == Array(type.utf8) else { continue }
            return try ranges(fork, list + Int(references), count: Int(last) + 1, data: Int(data))
        }
        return []
    }

    private static func ranges(
        _ fork: RawSpan, _ references: Int, count: Int, data: Int
    ) throws(BlockError) -> [Range<Int>] {
        var ranges: [Range<Int>] = []
        for number in 0..<count {
            guard let word: UInt32 = fork.bigEndian(at: references + number * referenceBytes + 4) else {
                throw damaged
            }
            let place = data + Int(word & 0xFF_FFFF)
            guard let length: UInt32 = fork.bigEndian(at: place),
                fork.part(place + 4..<place + 4 + Int(length)) != nil
            else { throw damaged }
            ranges.append(place + 4..<place + 4 + Int(length))
        }
        return ranges
    }

    private static var damaged: BlockError { BlockError(.corrupt, "The resource fork is damaged") }
}
