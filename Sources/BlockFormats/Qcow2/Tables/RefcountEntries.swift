import BlockCore

/// Refcounts packed in a block, from 1 to 64 bits wide (section "Refcount table").
///
/// Widths below a byte count from the least significant bit; wider ones are big-endian.
enum RefcountEntries {
    /// The entry number `index`; 0 when out of bounds.
    static func get(_ bytes: RawSpan, _ index: Int, order: Int) -> UInt64 {
        switch order {
        case 0, 1, 2:
            let perByte = 8 >> order
            let byte: UInt8 = bytes.bigEndian(at: index / perByte) ?? 0
            let mask = UInt8(truncatingIfNeeded: (1 << (1 << order)) - 1)
            return UInt64(byte >> UInt8((index % perByte) << order) & mask)
        case 3: return UInt64(bytes.bigEndian(UInt8.self, at: index) ?? 0)
        case 4: return UInt64(bytes.bigEndian(UInt16.self, at: index * 2) ?? 0)
        case 5: return UInt64(bytes.bigEndian(UInt32.self, at: index * 4) ?? 0)
        default: return bytes.bigEndian(UInt64.self, at: index * 8) ?? 0
        }
    }

    /// Sets the entry number `index`, which is inside `bytes`; `value` fits the width.
    static func set(_ bytes: inout MutableRawSpan, _ index: Int, to value: UInt64, order: Int) {
        switch order {
        case 0, 1, 2:
            let perByte = 8 >> order
            let shift = UInt8((index % perByte) << order)
            let mask = UInt8(truncatingIfNeeded: (1 << (1 << order)) - 1) << shift
            let old = bytes.unsafeLoad(fromByteOffset: index / perByte, as: UInt8.self)
            bytes.storeBigEndian(old & ~mask | UInt8(truncatingIfNeeded: value) << shift, at: index / perByte)
        case 3: bytes.storeBigEndian(UInt8(truncatingIfNeeded: value), at: index)
        case 4: bytes.storeBigEndian(UInt16(truncatingIfNeeded: value), at: index * 2)
        case 5: bytes.storeBigEndian(UInt32(truncatingIfNeeded: value), at: index * 4)
        default: bytes.storeBigEndian(value, at: index * 8)
        }
    }

    /// The bytes that hold entry `index`.
    static func byteRange(_ index: Int, order: Int) -> Range<Int> {
        let first = (index << order) >> 3
        return first..<first + max(1, (1 << order) >> 3)
    }
}
