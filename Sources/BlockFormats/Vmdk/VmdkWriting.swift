import BlockCore

extension VmdkDriver {
    /// Where a part of a write goes. Offsets are in bytes.
    struct WritePlan {
        enum Action {
            /// Bytes that the disk has already.
            case store(hostOffset: Int)
            /// New grains, which were marked as zeroes or not there at all.
            case fill(grains: Range<Int>, hostOffset: Int, isZero: Bool)
            /// One grain, which is compressed anew.
            case compress(grain: Int)
        }
        var guest: Range<Int>
        var extent: VmdkExtent
        var file: BlockNode
        var action: Action
        /// The whole grains around `guest`, where they are new.
        var fill: Range<Int>?
    }

    public func write(_ bytes: RawSpan, at offset: Int, old: any GuestReader) throws(BlockError) {
        var done = 0
        while done < bytes.byteCount {
            let plan = try beginWrite(offset + done..<offset + bytes.byteCount)
            let part = bytes.extracting(done..<done + plan.guest.count)
            switch plan.action {
            case .store(let hostOffset):
                defer { finish(plan) { _ in } }
                try plan.file.write(part, at: hostOffset)
            case .fill(let grains, let hostOffset, let isZero):
                try fill(plan, grains, hostOffset, isZero: isZero, part, old)
            case .compress(let grain): try compress(plan, grain, part, old)
            }
            done += plan.guest.count
        }
    }

    /// Waits for others that fill the same grains, which the node keeps apart only where grains are aligned.
    func beginWrite(_ guest: Range<Int>) throws(BlockError) -> WritePlan {
        try state.wait(
            until: { state in
                if state.fills.isEmpty { return true }
                let whole = state.wholeGrains(guest)
                return !state.fills.contains { $0.overlaps(whole) }
            },
            then: { (state) throws(BlockError) -> WritePlan in
                try state.prepareChange(nextCID)
                let plan = try Self.plan(guest, state)
                state.changesInFlight += 1
                if let fill = plan.fill { state.fills.append(fill) }
                return plan
            })
    }

    private static func plan(_ request: Range<Int>, _ state: VmdkState) throws(BlockError) -> WritePlan {
        let extent = state.extents[state.extentIndex(at: request.lowerBound)]
        let guest = request.lowerBound..<min(request.upperBound, extent.guest.upperBound)
        let inside = guest.lowerBound - extent.guest.lowerBound
        guard let file = extent.file else {
            throw BlockError(.readOnly, "This part of the disk is always zero and cannot be written")
        }
        switch extent.content {
        case .flat(let start):
            return WritePlan(
                guest: guest, extent: extent, file: file, action: .store(hostOffset: start + inside))
        case .sparse(let tables): return try plan(guest, extent, file, tables)
        case .stream(let stream):
            let grain = inside / stream.grainBytes
            let end = min(extent.guest.lowerBound + (grain + 1) * stream.grainBytes, guest.upperBound)
            return WritePlan(
                guest: guest.lowerBound..<end, extent: extent, file: file, action: .compress(grain: grain),
                fill: guest.lowerBound..<end)
        case .zero, .seSparse, .unopened:
            throw BlockError(.readOnly, "This part of the disk cannot be written", path: file.filename)
        }
    }

    private static func plan(
        _ guest: Range<Int>, _ extent: VmdkExtent, _ file: BlockNode, _ tables: VmdkGrainTables
    ) throws(BlockError) -> WritePlan {
        let start = guest.lowerBound - extent.guest.lowerBound
        let (grain, inside) = (start / tables.grainBytes, start % tables.grainBytes)
        let wanted = (inside + guest.count - 1) / tables.grainBytes + 1
        func part(_ count: Int) -> Range<Int> {
            guest.lowerBound..<min(guest.upperBound, guest.lowerBound - inside + count * tables.grainBytes)
        }
        func whole(_ count: Int) -> Range<Int> {
            let first = guest.lowerBound - inside
            return first..<min(first + count * tables.grainBytes, extent.guest.upperBound)
        }
        if tables.header.isCompressed {
            return WritePlan(
                guest: part(1), extent: extent, file: file, action: .compress(grain: grain), fill: whole(1))
        }
        let (first, run) = try tables.run(at: grain, limit: wanted)
        if tables.isPlace(first) {
            let host = try tables.hostOffset(first)
            let bytes = run * tables.grainBytes
            guard host + bytes <= (tables.end.roundedUp(to: tables.grainBytes) ?? 0) + tables.grainBytes,
                !tables.isMetadata(host..<host + bytes)
            else {
                throw BlockError(
                    .corrupt, "A grain lies over metadata or beyond the end of the file; check the image",
                    path: file.filename, offset: host)
            }
            return WritePlan(
                guest: part(run), extent: extent, file: file, action: .store(hostOffset: host + inside))
        }
        let host = try tables.allocate(run * tables.grainBytes)
        return WritePlan(
            guest: part(run), extent: extent, file: file,
            action: .fill(
                grains: grain..<grain + run, hostOffset: host, isZero: first == Vmdk.zeroGrain),
            fill: whole(run))
    }

    /// Ends a planned change under the lock, and lets those go on who wait for it. A flush that came before
    /// this does not count for what was written.
    func finish(_ plan: WritePlan, _ body: (inout VmdkState) -> Void) {
        state.withLock { state in
            plan.extent.tables?.hasUnflushedData = true
            body(&state)
            state.changesInFlight -= 1
            if let fill = plan.fill, let index = state.fills.firstIndex(of: fill) {
                state.fills.remove(at: index)
            }
        }
        state.notifyAll()
    }

    /// Fills new grains with the new bytes and what the guest saw around them, then links them.
    private func fill(
        _ plan: WritePlan, _ grains: Range<Int>, _ hostOffset: Int, isZero: Bool, _ bytes: RawSpan,
        _ old: any GuestReader
    ) throws(BlockError) {
        guard let tables = plan.extent.tables, let whole = plan.fill else { return }
        let size = grains.count * tables.grainBytes
        let base = hostOffset - whole.lowerBound
        do throws(BlockError) {
            let (head, tail) = (
                whole.lowerBound..<plan.guest.lowerBound, plan.guest.upperBound..<whole.upperBound
            )
            // From back to front, so that the file ends with the grains and grows once.
            if whole.count < size {
                try plan.file.writeZeroes(at: hostOffset + whole.count, count: size - whole.count)
            }
            try plan.file.fill(
                at: base + tail.lowerBound, withOld: tail, isZero: isZero || !old.hasBacking(in: tail), old)
            try plan.file.fill(
                at: base + head.lowerBound, withOld: head, isZero: isZero || !old.hasBacking(in: head), old)
            try plan.file.write(bytes, at: base + plan.guest.lowerBound)
        } catch {
            let isHidden = !isZero && old.hasBacking(in: whole)
            finish(plan) { _ in
                tables.giveBack(hostOffset, size, firstGrain: isHidden ? nil : grains.lowerBound)
            }
            throw error
        }
        try link(plan, tables, grains, place: hostOffset..<hostOffset + size) { grain in
            UInt32((hostOffset + (grain - grains.lowerBound) * tables.grainBytes) / Vmdk.sectorBytes)
        }
    }

    /// Refers to what was written at `place`, or gives it back, and ends the change.
    func link(
        _ plan: WritePlan, _ tables: VmdkGrainTables, _ grains: Range<Int>, place: Range<Int>,
        _ entry: (Int) -> UInt32
    ) throws(BlockError) {
        var failure: BlockError?
        finish(plan) { _ in
            do throws(BlockError) { try tables.prepareToLink(grains) } catch {
                tables.giveBack(place.lowerBound, place.count)
                failure = error
                return
            }
            do throws(BlockError) { try tables.link(grains, entry) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}
