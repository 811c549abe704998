import BlockCore
import Synchronization

/// Reads and writes encrypted bytes of a file. Thread-safe.
///
/// Offsets are in bytes and need no alignment. Sectors that a write covers in part are read first: the caller
/// excludes other writes to these sectors meanwhile.
struct EncryptedStore: Sendable {
    let cipher: SectorCipher
    private let buffers = BufferPool()

    init(_ cipher: SectorCipher) { self.cipher = cipher }

    private static let sector = SectorCipher.sectorBytes

    /// Fills `buffer` with the plain bytes at `offset` of `file`.
    ///
    /// - Parameter numbering: the offset that numbers the sectors; it must have the same position in a sector
    ///   as `offset`.
    func read(
        _ file: BlockNode, into buffer: inout MutableRawSpan, at offset: Int, numbering: Int
    ) throws(BlockError) {
        let count = buffer.byteCount
        let head = min((Self.sector - numbering % Self.sector) % Self.sector, count)
        let middle = (count - head).roundedDown(to: Self.sector)
        if head > 0 {
            var part = buffer.slice(0..<head)
            try readPart(file, into: &part, at: offset, numbering: numbering)
        }
        if middle > 0 {
            var part = buffer.slice(head..<head + middle)
            try file.read(into: &part, at: offset + head)
            try cipher.decrypt(&part, firstSector: (numbering + head) / Self.sector)
        }
        if head + middle < count {
            var part = buffer.slice(head + middle..<count)
            try readPart(file, into: &part, at: offset + head + middle, numbering: numbering + head + middle)
        }
    }

    /// Fills `part`, which lies in one sector.
    private func readPart(
        _ file: BlockNode, into part: inout MutableRawSpan, at offset: Int, numbering: Int
    ) throws(BlockError) {
        let inside = numbering % Self.sector
        let sector = AlignedBuffer(count: Self.sector)
        var bytes = sector.mutableBytes
        try file.read(into: &bytes, at: offset - inside)
        try cipher.decrypt(&bytes, firstSector: numbering / Self.sector)
        part.copy(from: sector.bytes(inside..<inside + part.byteCount))
    }

    /// Stores `bytes` at `offset` of `file`.
    func write(_ file: BlockNode, _ bytes: RawSpan, at offset: Int, numbering: Int) throws(BlockError) {
        var done = 0
        while done < bytes.byteCount {
            let inside = (numbering + done) % Self.sector
            let rest = bytes.byteCount - done
            if inside > 0 || rest < Self.sector {
                let count = min(Self.sector - inside, rest)
                let part = bytes.extracting(done..<done + count)
                try writePart(file, part, at: offset + done, numbering: numbering + done)
                done += count
                continue
            }
            let count = min(rest.roundedDown(to: Self.sector), BufferPool.bufferBytes)
            let buffer = buffers.take()
            defer { buffers.giveBack(buffer) }
            var target = buffer.mutableBytes(0..<count)
            try cipher.encrypt(
                bytes.extracting(done..<done + count), into: &target,
                firstSector: (numbering + done) / Self.sector)
            try file.write(buffer.bytes(0..<count), at: offset + done)
            done += count
        }
    }

    /// Stores `bytes`, which lie in one sector, keeping the rest of it.
    private func writePart(
        _ file: BlockNode, _ bytes: RawSpan, at offset: Int, numbering: Int
    ) throws(BlockError) {
        let inside = numbering % Self.sector
        let number = numbering / Self.sector
        let plain = AlignedBuffer(count: Self.sector)
        var sector = plain.mutableBytes
        try file.read(into: &sector, at: offset - inside)
        try cipher.decrypt(&sector, firstSector: number)
        sector.copy(from: bytes, at: inside)
        let encrypted = AlignedBuffer(count: Self.sector)
        var target = encrypted.mutableBytes
        try cipher.encrypt(plain.bytes, into: &target, firstSector: number)
        try file.write(encrypted.bytes, at: offset - inside)
    }
}

/// Buffers for encrypted bytes on their way to a file. Thread-safe.
final class BufferPool: Sendable {
    static let bufferBytes = Int.mib(1)
    private static let maximumIdle = 16

    private let idle = Mutex<[AlignedBuffer]>([])

    func take() -> AlignedBuffer {
        idle.withLock { $0.popLast() } ?? AlignedBuffer(count: Self.bufferBytes)
    }

    func giveBack(_ buffer: AlignedBuffer) {
        idle.withLock { buffers in
            if buffers.count < Self.maximumIdle { buffers.append(buffer) }
        }
    }
}
