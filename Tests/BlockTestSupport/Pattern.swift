/// Bytes that tell where they belong and which write they come from.
public enum Pattern {
    /// The size in bytes of what storage writes as one piece.
    public static let sectorBytes = 512

    /// `count` bytes as write number `stamp` puts them at the guest's `offset`.
    ///
    /// All words of a sector are equal, so that they compress, unless `noise`, which does not.
    public static func bytes(stamp: Int, at offset: Int, count: Int, noise: Bool = false) -> [UInt8] {
        let firstWord = offset / 8
        let wordCount = (offset + count + 7) / 8 - firstWord
        guard wordCount > 0 else { return [] }
        var words = [UInt64](repeating: 0, count: wordCount)
        let seed = mix(UInt64(bitPattern: Int64(stamp)))
        words.withUnsafeMutableBufferPointer { buffer in
            var index = 0
            while index < wordCount {
                let place = firstWord &+ index
                buffer[index] = noise ? mix(seed ^ UInt64(place)) : seed &+ UInt64(place / 64)
                index &+= 1
            }
        }
        let skip = offset - firstWord * 8
        return words.withUnsafeBytes { Array($0[skip..<skip + count]) }
    }

    private static func mix(_ value: UInt64) -> UInt64 {
        var mixed = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
