import BlockCore

extension QcowDriver {
    /// Where a part of a write goes.
    private struct Plan {
        var guest: Range<Int>
        /// The host offset of `guest.lowerBound`, or of its cluster where that is new.
        var hostOffset: Int
        /// New clusters, all of them covered by `guest` or only one; 0 for the guest's own.
        var newClusters: Int
        /// Whether the rest of a new cluster is what lies below this layer.
        var wasUnallocated: Bool
    }

    public func write(_ bytes: RawSpan, at offset: Int, old: any GuestReader) throws(BlockError) {
        var done = 0
        while done < bytes.byteCount {
            let plan = try tables.withLock { (tables) throws(BlockError) -> Plan in
                let plan = try self.plan(offset + done..<offset + bytes.byteCount, tables)
                tables.writesInFlight += 1
                return plan
            }
            let part = bytes.extracting(done..<done + plan.guest.count)
            if plan.newClusters > 0 {
                try store(plan, part, old)
            } else {
                defer { finishWrite { $0.hasUnflushedWrites = true } }
                file.emit(.writeData)
                try data.write(part, at: plan.hostOffset, guest: plan.guest.lowerBound)
            }
            done += plan.guest.count
        }
    }

    private func plan(_ guest: Range<Int>, _ tables: QcowTables) throws(BlockError) -> Plan {
        let start = guest.lowerBound.roundedDown(to: clusterBytes)
        let inside = guest.lowerBound - start
        let run = try tables.run(at: start, limit: clusters(inside, guest.count))
        var part = guest.lowerBound..<min(guest.upperBound, start + run.count << clusterBits)
        if case .data(let host) = run.first {
            try tables.checkIsData(host..<host + run.count << clusterBits)
            return Plan(guest: part, hostOffset: host + inside, newClusters: 0, wasUnallocated: false)
        }
        // A cluster that is written in part goes by itself, so that it can be completed in memory.
        let isWhole = inside == 0 && part.count >= clusterBytes
        let count = isWhole ? part.count >> clusterBits : 1
        part = part.lowerBound..<min(part.upperBound, start + count << clusterBits)
        return Plan(
            guest: part, hostOffset: try tables.allocate(count), newClusters: count,
            wasUnallocated: run.first == .unallocated)
    }

    /// Stores new clusters whole, then links them.
    private func store(_ plan: Plan, _ bytes: RawSpan, _ old: any GuestReader) throws(BlockError) {
        let start = plan.guest.lowerBound.roundedDown(to: clusterBytes)
        try fillAndLink(at: start, hostOffset: plan.hostOffset, count: plan.newClusters, old) {
            () throws(BlockError) in
            file.emit(.writeData)
            if bytes.byteCount == plan.newClusters << clusterBits {
                return try data.write(bytes, at: plan.hostOffset, guest: start)
            }
            let cluster = AlignedBuffer(count: clusterBytes)
            var whole = cluster.mutableBytes
            if plan.wasUnallocated && !old.hasBacking(in: start..<start + clusterBytes) {
                whole.fill()
            } else {
                try old.readOld(into: &whole, at: start)
            }
            whole.copy(from: bytes, at: plan.guest.lowerBound - start)
            try data.write(cluster.bytes, at: plan.hostOffset, guest: start)
        }
    }

    /// Lets `fill` store clusters of a write that is in flight, then links them; gives them back after a
    /// failure. They are in one table.
    func fillAndLink(
        at guest: Int, hostOffset: Int, count: Int, _ old: any GuestReader,
        _ fill: () throws(BlockError) -> Void
    ) throws(BlockError) {
        let place = hostOffset..<hostOffset + count << clusterBits
        let isHidden = old.hasBacking(in: guest..<guest + place.count)
        do throws(BlockError) { try fill() } catch {
            finishWrite { $0.giveBack(place, guest: isHidden ? nil : guest) }
            throw error
        }
        try link(at: guest, count: count, place) { UInt64(hostOffset + $0 << clusterBits) }
    }

    /// Ends a write: its entries are set, or its place is given back.
    private func link(
        at guest: Int, count: Int, _ place: Range<Int>, to value: (Int) -> UInt64
    ) throws(BlockError) {
        var failure: BlockError?
        finishWrite { tables in
            tables.hasUnflushedWrites = true
            do throws(BlockError) { try tables.setEntries(at: guest, count: count, to: value) } catch {
                tables.giveBack(place)
                failure = error
            }
        }
        if let failure { throw failure }
    }

    func finishWrite(_ body: (QcowTables) -> Void) {
        tables.withLock { tables in
            body(tables)
            tables.writesInFlight -= 1
        }
        tables.notifyAll()
    }
}

extension QcowDriver: CompressedWriting {
    public var compressedUnitBytes: Int { clusterBytes }

    public func compress(_ unit: RawSpan, into output: inout MutableRawSpan) throws(BlockError) -> Int? {
        var room = output.slice(0..<min(output.byteCount, clusterBytes - 1))
        if unit.byteCount == clusterBytes { return try Deflate.compress(unit, into: &room) }
        let padded = AlignedBuffer(count: clusterBytes, zeroed: true)
        var bytes = padded.mutableBytes
        bytes.copy(from: unit)
        return try Deflate.compress(padded.bytes, into: &room)
    }

    public func writeCompressed(_ payload: RawSpan, at offset: Int) throws(BlockError) {
        guard !isEncrypted else {
            throw BlockError(
                .unsupported, "Compression and encryption not supported at the same time",
                path: file.filename)
        }
        guard payload.byteCount > 0, payload.byteCount < clusterBytes, offset % clusterBytes == 0 else {
            throw BlockError(.invalidArgument, "Compressed writes are of whole clusters", path: file.filename)
        }
        let (place, entry) = try tables.withLock { (tables) throws(BlockError) -> (Range<Int>, UInt64) in
            let place = try tables.allocateBytes(payload.byteCount)
            guard let entry = QcowEntry.compressed(place, clusterBits: clusterBits) else {
                tables.giveBack(place)
                throw BlockError(
                    .noSpace, "The image file is too large for compressed clusters", path: file.filename)
            }
            tables.writesInFlight += 1
            return (place, entry)
        }
        do throws(BlockError) {
            file.emit(.writeCompressed)
            try file.write(payload, at: place.lowerBound)
        } catch {
            finishWrite { $0.giveBack(place) }
            throw error
        }
        try link(at: offset, count: 1, place) { _ in entry }
    }
}

extension QcowDriver: ZeroWriting, Discarding {
    public var zeroGranularity: Int { clusterBytes }
    public var discardGranularity: Int { clusterBytes }

    /// What is stored becomes a hole of the file; what is not gets clusters, holes too, where a backing file
    /// shows through: the format has no mark for zeroes.
    public func writeZeroes(
        at offset: Int, count: Int, mayUnmap: Bool, old: any GuestReader
    ) throws(BlockError) -> Bool {
        try eachRun(offset, count) { (run, entry) throws(BlockError) in
            let isHidden = old.hasBacking(in: run)
            switch entry {
            case .data(let host):
                try data.writeZeroes(
                    at: host, count: run.count, guest: run.lowerBound, flags: mayUnmap ? .mayUnmap : [])
            case .unallocated where !isHidden: break
            case .compressed where !isHidden: try forget(run)
            default: try addZeroes(run, old)
            }
        }
        return true
    }

    /// Encrypted clusters keep their bytes: a hole would be noise to the guest.
    public func discard(at offset: Int, count: Int, old: any GuestReader) throws(BlockError) {
        try eachRun(offset, count) { (run, entry) throws(BlockError) in
            switch entry {
            case .data(let host) where !isEncrypted: try file.writeZeroes(at: host, count: run.count)
            case .compressed where !old.hasBacking(in: run): try forget(run)
            default: break
            }
        }
    }

    private func eachRun(
        _ offset: Int, _ count: Int, _ body: (Range<Int>, QcowEntry) throws(BlockError) -> Void
    ) throws(BlockError) {
        var start = offset
        while start < offset + count {
            let rest = offset + count - start
            let run = try tables.withLock { (tables) throws(BlockError) in
                let run = try tables.run(at: start, limit: clusters(0, rest))
                if case .data(let host) = run.first {
                    try tables.checkIsData(host..<host + run.count << clusterBits)
                    tables.hasUnflushedWrites = true
                }
                return run
            }
            let length = min(rest, run.count << clusterBits)
            try body(start..<start + length, run.first)
            start += length
        }
    }

    /// Makes clusters of one table unallocated.
    private func forget(_ run: Range<Int>) throws(BlockError) {
        try tables.withLock { (tables) throws(BlockError) in
            try tables.setEntries(at: run.lowerBound, count: clusters(0, run.count)) { _ in 0 }
        }
    }

    /// Gives new clusters, of one table, that read as zeroes.
    private func addZeroes(_ run: Range<Int>, _ old: any GuestReader) throws(BlockError) {
        let count = clusters(0, run.count)
        let host = try tables.withLock { (tables) throws(BlockError) in
            let host = try tables.allocate(count)
            tables.writesInFlight += 1
            return host
        }
        try fillAndLink(at: run.lowerBound, hostOffset: host, count: count, old) { () throws(BlockError) in
            try data.writeZeroes(at: host, count: count << clusterBits, guest: run.lowerBound)
        }
    }
}
