import BlockCore

extension ConformanceSuite {
    /// How many sizes of the disk are tried.
    private static let sizes = TestEffort.isLong ? 400 : 12

    /// Lets the disk be full after some more blocks each time. What is refused leaves no space behind; the
    /// image closes, and with more room the same operation works.
    func checkFullDisk(seed: UInt64) throws {
        try run(seed: seed, count: operationCount / 3) { operations in
            let needed = try neededBlocks(operations)
            var step = 0
            while step <= needed {
                do { try fill(operations, withRoomFor: step) } catch {
                    throw Mismatch("room for \(step) of \(needed) blocks: \(error)")
                }
                step += max(1, needed / Self.sizes)
            }
        }
    }

    /// How many blocks the files of the image grow by.
    private func neededBlocks(_ operations: [DiskOperation]) throws -> Int {
        let session = try ImageSession.new(configuration)
        let before = session.store.usedBlocks
        var most = before
        for operation in operations {
            try session.perform(operation)
            most = max(most, session.store.usedBlocks)
        }
        try session.node.close()
        return max(most, session.store.usedBlocks) - before
    }

    private func fill(_ operations: [DiskOperation], withRoomFor blocks: Int) throws {
        let session = try ImageSession.new(configuration)
        session.store.capacity = session.store.usedBlocks + blocks
        var refused = operations.count
        for (index, operation) in operations.enumerated() {
            try session.perform(operation, mayFail: true)
            guard session.sawFailure else { continue }
            refused = index
            break
        }
        let isClosed = refused < operations.count && operations[refused] == .reopen
        if !isClosed {
            do throws(BlockError) { try session.node.close() } catch {
                // Bitmaps are stored when the image is closed.
                guard !configuration.bitmaps.isEmpty else {
                    throw Mismatch("closing the image failed: \(error)")
                }
            }
        }
        session.store.capacity = nil
        try DiskComparison.checkStructure(
            configuration, session.store, leaksAllowed: configuration.leavesLeaks)
        let again = try ImageSession(configuration, store: session.store, model: session.model)
        try again.compareAll()
        for operation in operations[min(refused, operations.count)...].prefix(2) {
            try again.perform(operation)
        }
        try again.compareAll()
        try again.finish()
    }
}
