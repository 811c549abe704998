import BlockCore
import CHost
import Synchronization
import SystemPackage

/// Space without contents: zeroing, giving back, growing and shrinking, copying inside the kernel.
extension FileDriver {
    /// The source of zeroes that are written as data.
    private static let zeroes = AlignedBuffer(count: 256 << 10, zeroed: true)

    /// - Throws: `io`, `noSpace`; `unsupported` with ``ZeroFlags/noFallback``.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags) throws(BlockError) {
        let end = try file.checkRange(offset, count)
        guard count > 0 else { return }
        try gated(offset, count) { () throws(BlockError) in
            try zero(offset..<end, length: try length(), flags)
            file.noteLength(end)
        }
        try syncIfWriteThrough()
    }

    /// Tries in turn: give back, zero in place, give back and reserve, grow, write zeroes.
    private func zero(_ range: Range<Int>, length: Int, _ flags: ZeroFlags) throws(BlockError) {
        let inside = range.clamped(to: 0..<max(length, range.lowerBound))
        let mayUnmap = flags.contains(.mayUnmap)
        forgetData()
        if !mayUnmap {
            if try zeroInPlace(range) { return }
            if try punch(inside) {
                if try reserve(range) { return }
            }
        }
        if range.upperBound > length { try setLength(range.upperBound) }
        if inside.isEmpty { return }
        if mayUnmap {
            if try punch(inside) { return }
            if try zeroInPlace(inside) { return }
        }
        guard !flags.contains(.noFallback) else {
            throw .system(.notSupported, path: file.path, offset: range.lowerBound)
        }
        try writeOut(inside)
    }

    /// Writes zeroes as data. The range is inside the file, or the caller holds the gate.
    private func writeOut(_ range: Range<Int>) throws(BlockError) {
        var offset = range.lowerBound
        while offset < range.upperBound {
            let count = min(Self.zeroes.count, range.upperBound - offset)
            try file.writeGated(Self.zeroes.bytes(0..<count), at: offset)
            offset += count
        }
    }

    /// - Throws: `io`, `noSpace`.
    public func discard(at offset: Int, count: Int) throws(BlockError) {
        try file.checkRange(offset, count)
        guard count > 0, file.options.discardUnmaps else { return }
        try gated(offset, count) { () throws(BlockError) in
            forgetData()
            _ = try punch(offset..<offset + count)
        }
        try syncIfWriteThrough()
    }

    /// - Throws: `invalidArgument`, `unsupported`, `noSpace`, `io`.
    public func truncate(to length: Int, preallocation: Preallocation) throws(BlockError) {
        guard length >= 0 else { throw .system(.invalidArgument, path: file.path) }
        file.gate.enter()
        defer { file.gate.leave() }
        let before = try self.length()
        forgetData()
        file.knownLength.store(min(before, length), ordering: .relaxed)
        do throws(BlockError) {
            try resize(from: before, to: length, preallocation)
        } catch {
            if length > before { try? setLength(before) }
            file.knownLength.store(min(before, length), ordering: .relaxed)
            throw error
        }
        file.noteLength(length)
        try syncIfWriteThrough()
    }

    private func resize(from before: Int, to length: Int, _ mode: Preallocation) throws(BlockError) {
        if mode != .off && length < before {
            throw BlockError(
                .invalidArgument, "Preallocation can't be used for shrinking files", path: file.path)
        }
        switch mode {
        case .off:
            do throws(BlockError) { try setLength(length) } catch {
                throw error.prefixed("Could not resize file")
            }
        case .metadata:
            throw BlockError(.unsupported, "Unsupported preallocation mode: metadata", path: file.path)
        case .falloc:
            do throws(BlockError) {
                let reserved = try reserve(before..<length)
                if !reserved { try writeOut(before..<length) }
            } catch {
                throw error.prefixed("Could not preallocate new data")
            }
        case .full:
            do throws(BlockError) {
                try writeOut(before..<length)
                try file.flush()
            } catch {
                throw error.prefixed("Could not write zeros for preallocation")
            }
        }
    }

    /// - Throws: `io`, `noSpace`.
    public func copyRange(
        from source: any ProtocolDriver, at sourceOffset: Int, to offset: Int, count: Int
    ) throws(BlockError) -> Int {
        guard let other = source as? FileDriver, !lacks(.copyRange), count > 0 else { return 0 }
        try other.file.checkRange(sourceOffset, count)
        try file.checkRange(offset, count)
        let copied = try gated(offset, count) { () throws(BlockError) -> Int in
            let copied = try copyLoop(other, sourceOffset, offset, count)
            file.noteLength(offset + copied)
            return copied
        }
        if copied > 0 { try syncIfWriteThrough() }
        return copied
    }

    private func copyLoop(
        _ other: FileDriver, _ sourceOffset: Int, _ offset: Int, _ count: Int
    ) throws(BlockError) -> Int {
        var done = 0
        while done < count {
            var code: Int32 = 0
            let copied = Int(
                platter_copy_range(
                    other.file.descriptor, Int64(sourceOffset + done), file.descriptor, Int64(offset + done),
                    Int64(count - done), &code))
            if copied == 0 { break }
            guard copied > 0 else {
                let error = Errno(rawValue: code)
                if error == .improperLink || error.meansUnsupported { note(missing: .copyRange) }
                if error == .improperLink || error == .invalidArgument || error.meansUnsupported { break }
                throw .system(error, path: file.path, offset: offset + done)
            }
            done += copied
        }
        return done
    }

    // MARK: System calls

    /// Gives the range's space back. `false` if the file system cannot.
    private func punch(_ range: Range<Int>) throws(BlockError) -> Bool {
        try step(.punchHole, range, platter_punch_hole)
    }

    /// Zeroes the range, keeping its space and growing the file. `false` if the file system cannot.
    private func zeroInPlace(_ range: Range<Int>) throws(BlockError) -> Bool {
        try step(.zeroRange, range, platter_zero_range)
    }

    /// Reserves space, growing the file. `false` if the file system cannot.
    private func reserve(_ range: Range<Int>) throws(BlockError) -> Bool {
        try step(.allocate, range, platter_allocate)
    }

    private func step(
        _ feature: Missing, _ range: Range<Int>, _ call: (Int32, Int64, Int64) -> Int32
    ) throws(BlockError) -> Bool {
        if range.isEmpty { return true }
        if lacks(feature) { return false }
        let code = Errno(rawValue: call(file.descriptor, Int64(range.lowerBound), Int64(range.count)))
        if code.rawValue == 0 { return true }
        if code.meansUnsupported { note(missing: feature) }
        // EINVAL concerns this range (its alignment), so another range may work.
        if code.meansUnsupported || code == .invalidArgument { return false }
        throw .system(code, path: file.path, offset: range.lowerBound)
    }

    private func setLength(_ length: Int) throws(BlockError) {
        file.releaseReserve()
        try reporting(file.path, at: length) { () throws(Errno) in
            try FileStatus.setLength(file.descriptor, length)
        }
    }

    /// Runs `body` with the gate held if it may change the length, or writes parts of direct I/O's blocks.
    private func gated<Result>(
        _ offset: Int, _ count: Int, _ body: () throws(BlockError) -> Result
    ) throws(BlockError) -> Result {
        let inside = offset + count <= file.knownLength.load(ordering: .relaxed)
        if inside && file.isAligned(offset, count) { return try body() }
        file.gate.enter()
        defer { file.gate.leave() }
        return try body()
    }

    private func syncIfWriteThrough() throws(BlockError) {
        if file.options.isWriteThrough { try file.flush() }
    }
}
