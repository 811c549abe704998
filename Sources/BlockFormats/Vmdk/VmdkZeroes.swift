import BlockCore

extension VmdkDriver: ZeroWriting, Discarding {
    public var zeroGranularity: Int { min(writeGranularity, Vmdk.sectorBytes) }
    public var discardGranularity: Int { writeGranularity }

    public var marksZeroes: Bool {
        state.withLock { state in
            state.extents.allSatisfy { $0.tables?.header.hasZeroGrains == true }
        }
    }

    /// What is stored becomes a hole of the file and stays where it is; what is not stored gets the mark that
    /// says zero, or is stored over a parent where the image has no such mark.
    public func writeZeroes(
        at offset: Int, count: Int, mayUnmap: Bool, old: any GuestReader
    ) throws(BlockError) -> Bool {
        try clear(offset..<offset + count, mayUnmap ? .mayUnmap : [], storing: true, old)
        return true
    }

    public func discard(at offset: Int, count: Int, old: any GuestReader) throws(BlockError) {
        try clear(offset..<offset + count, .mayUnmap, storing: false, old)
    }

    /// - Parameter storing: whether zeroes are stored where nothing else makes the range read as such.
    private func clear(
        _ range: Range<Int>, _ flags: ZeroFlags, storing: Bool, _ old: any GuestReader
    ) throws(BlockError) {
        let marks = marksZeroes
        var offset = range.lowerBound
        while offset < range.upperBound {
            let here = try extent(at: offset, limit: range.upperBound - offset)
            var part = offset..<offset + here.length
            if here.status == .unallocated, !old.hasBacking(in: part) {
                // All of a grain that has no entry reads as zeroes here.
                part = marks ? state.withLock { $0.wholeGrains(part) } : part.lowerBound..<part.lowerBound
            }
            switch here.status {
            case .zero: break
            case .unallocated where part.isEmpty: break
            case .data:
                let plan = try beginClearing(part)
                defer { finish(plan) { _ in } }
                guard case .store(let host) = plan.action else { break }
                try plan.file.writeZeroes(at: host, count: part.count, flags: flags)
            default:
                // Whole grains can be unlinked or marked; parts of them are written.
                if try !mark(part, old), storing || here.status != .unallocated { try store(part, old) }
            }
            offset += here.length
        }
    }

    /// Plans to clear a run of stored bytes.
    private func beginClearing(_ part: Range<Int>) throws(BlockError) -> WritePlan {
        let plan = try beginWrite(part)
        guard plan.guest == part else {
            finish(plan) { _ in }
            throw BlockError(.corrupt, "The image was changed by somebody else", path: file.filename)
        }
        return plan
    }

    private func store(_ range: Range<Int>, _ old: any GuestReader) throws(BlockError) {
        let zeroes = AlignedBuffer(count: min(range.count, 1 << 20), zeroed: true)
        var offset = range.lowerBound
        while offset < range.upperBound {
            let count = min(zeroes.count, range.upperBound - offset)
            try write(zeroes.bytes(0..<count), at: offset, old: old)
            offset += count
        }
    }

    /// Sets the entries of whole grains to "zero", or to nothing where nothing lies below.
    ///
    /// - Returns: `false` when that does not make them zeroes: nothing was changed.
    private func mark(_ range: Range<Int>, _ old: any GuestReader) throws(BlockError) -> Bool {
        let hasBacking = old.hasBacking(in: range)
        return try state.withLock { (state) throws(BlockError) -> Bool in
            let extent = state.extents[state.extentIndex(at: range.lowerBound)]
            guard let tables = extent.tables, state.wholeGrains(range) == range,
                !hasBacking || tables.header.hasZeroGrains
            else { return false }
            try state.prepareChange(nextCID)
            let first = (range.lowerBound - extent.guest.lowerBound) / tables.grainBytes
            let end = (range.upperBound - extent.guest.lowerBound - 1) / tables.grainBytes + 1
            let entry: UInt32 = tables.header.hasZeroGrains ? Vmdk.zeroGrain : 0
            try tables.prepareToLink(first..<end)
            try tables.link(first..<end) { _ in entry }
            return true
        }
    }
}
