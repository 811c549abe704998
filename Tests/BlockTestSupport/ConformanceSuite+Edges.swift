import BlockCore

extension ConformanceSuite {
    /// The first and last bytes, ranges past the end, and what a read-only node refuses.
    func checkEdges(seed: UInt64) throws {
        do {
            let session = try ImageSession.new(configuration)
            let size = session.model.size
            try session.compareAll()
            for operation in Self.edgeOperations(size: size, unit: session.abilities.unit) {
                try session.perform(operation)
            }
            try refuses("a read past the end") { () throws(BlockError) in
                _ = try session.node.readBytes(at: size, count: 1)
            }
            try refuses("a write past the end") { () throws(BlockError) in
                try session.node.write(([1, 2] as [UInt8]).span.bytes, at: size - 1)
            }
            try refuses("a write at a negative offset") { () throws(BlockError) in
                try session.node.write(([1] as [UInt8]).span.bytes, at: -1)
            }
            try session.compareAll()
            try session.finish()
            try checkReadOnly(session)
        } catch { throw failure("edges: \(error)", seed: seed) }
    }

    private static func edgeOperations(size: Int, unit: Int) -> [DiskOperation] {
        let lastUnit = (size - 1) / unit * unit
        let places = [0, size - 1, max(0, unit - 1), unit, lastUnit].filter { $0 < size }
        var operations: [DiskOperation] = []
        for (index, place) in places.enumerated() {
            operations.append(.write(offset: place, count: 1, stamp: 1000 + index, noise: false))
            operations.append(.writeZeroes(offset: place, count: 1, mayUnmap: true))
            operations.append(.write(offset: place, count: 2, stamp: 1100 + index, noise: true))
        }
        let most = min(size, max(4 * unit, 65536))
        return operations + [
            .discard(offset: lastUnit, count: size - lastUnit),
            .write(offset: size - most, count: most, stamp: 1200, noise: false),
            .writeZeroes(offset: lastUnit, count: size - lastUnit, mayUnmap: false),
            .write(offset: 0, count: most, stamp: 1201, noise: true),
            .discard(offset: 0, count: size),
            .write(offset: size / 2, count: 1, stamp: 1202, noise: false),
            .writeZeroes(offset: 0, count: size, mayUnmap: true),
            .read(offset: 0, count: size),
        ]
    }

    private func checkReadOnly(_ session: ImageSession) throws {
        let before = session.store.files
        let node = try configuration.open(in: session.store, settings: OpenSettings(readOnly: true))
        let byte: [UInt8] = [1]
        try refuses("a write", as: .readOnly) { () throws(BlockError) in
            try node.write(byte.span.bytes, at: 0)
        }
        try refuses("zeroing", as: .readOnly) { () throws(BlockError) in try node.writeZeroes(at: 0, count: 1)
        }
        try refuses("a discard", as: .readOnly) { () throws(BlockError) in try node.discard(at: 0, count: 1) }
        try refuses("a resize", as: .readOnly) { () throws(BlockError) in try node.resize(to: 1 << 20) }
        _ = try node.readBytes(at: 0, count: 1)
        try node.close()
        guard session.store.files == before else { throw Mismatch("a read-only node changed the file") }
    }

    /// Checks that `body` throws, and with that kind where one is given.
    private func refuses(
        _ what: String, as kind: BlockError.Kind? = nil, _ body: () throws(BlockError) -> Void
    ) throws {
        do throws(BlockError) { try body() } catch {
            guard kind == nil || error.kind == kind else {
                throw Mismatch("\(what) was refused with kind \(error.kind): \(error)")
            }
            return
        }
        throw Mismatch("\(what) was not refused")
    }
}
