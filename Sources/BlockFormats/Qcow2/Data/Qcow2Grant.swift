import BlockCore

extension Qcow2Driver {
    /// Where a part of a write goes.
    struct WritePlan {
        /// The guest bytes of the request that this part stores.
        var guest: Range<Int>
        /// The host offset of `guest.lowerBound`.
        var hostOffset: Int
        /// New clusters; `nil` when the data goes into a cluster that is the guest's own already.
        var allocation: Allocation?
    }

    /// Clusters that a write fills before an L2 entry refers to them.
    struct Allocation {
        /// Guest clusters, whole but for the end of a disk with a data file; or subclusters of them.
        var guest: Range<Int>
        var hostOffset: Int
        /// The file has never had anything there: what is not written reads as zeroes.
        var isVirgin: Bool
        /// The clusters were the guest's already, marked as zero.
        var isReused: Bool
        /// Whether the first and the last cluster read as zeroes without asking the backing file.
        var headKind: L2Entry.Kind
        var tailKind: L2Entry.Kind
    }

    public func write(_ bytes: RawSpan, at offset: Int, old: any GuestReader) throws(BlockError) {
        var done = 0
        while done < bytes.byteCount {
            let plan = try metadata.withLock { tables throws(BlockError) -> WritePlan in
                try tables.plan(offset + done..<offset + bytes.byteCount)
            }
            let part = bytes.extracting(done..<done + plan.guest.count)
            if let allocation = plan.allocation {
                try fill(allocation, plan, part, old)
            } else {
                defer { finishWrite { _ in } }
                file.emit(.writeData)
                try data.write(part, at: plan.hostOffset, guest: plan.guest.lowerBound)
            }
            done += plan.guest.count
        }
    }

    /// Writes new clusters, then links them; gives them back when that fails.
    private func fill(
        _ allocation: Allocation, _ plan: WritePlan, _ bytes: RawSpan, _ old: any GuestReader
    ) throws(BlockError) {
        do throws(BlockError) {
            try store(bytes, plan, allocation, old)
        } catch {
            finishWrite { tables in tables.giveBack(allocation) }
            throw error
        }
        var failure: BlockError?
        finishWrite { tables in
            do throws(BlockError) { try tables.link(allocation) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    /// Ends a planned write under the lock, and lets those go on who wait for it.
    func finishWrite(_ body: (Qcow2Metadata) -> Void) {
        metadata.withLock { tables in
            body(tables)
            tables.writesInFlight -= 1
        }
        metadata.notifyAll()
    }

    /// Up to this size, a request and what completes its clusters are put together and written at once.
    private static let assembledBytes = 256 << 10

    /// Writes a part and completes its first and last cluster with what the guest saw there before.
    private func store(
        _ bytes: RawSpan, _ plan: WritePlan, _ allocation: Allocation, _ old: any GuestReader
    ) throws(BlockError) {
        let head = allocation.guest.lowerBound..<plan.guest.lowerBound
        let tail = plan.guest.upperBound..<allocation.guest.upperBound
        let headIsZero = head.isEmpty || readsAsZero(allocation.headKind, head, old)
        let tailIsZero = tail.isEmpty || readsAsZero(allocation.tailKind, tail, old)
        let isComplete = head.isEmpty && tail.isEmpty
        file.emit(.writeData)
        // A file that ends inside a sector could grow by a part of one when the power fails.
        let endsAtSector = plan.guest.upperBound % Qcow2.sectorBytes == 0
        if isComplete || (allocation.isVirgin && headIsZero && tailIsZero && endsAtSector) {
            if !isComplete { file.emit(.clusterAllocateSpace) }
            return try data.write(bytes, at: plan.hostOffset, guest: plan.guest.lowerBound)
        }
        if allocation.guest.count <= Self.assembledBytes {
            let buffer = AlignedBuffer(count: allocation.guest.count)
            var whole = buffer.mutableBytes
            var part = whole.slice(0..<head.count)
            try complete(&part, head, headIsZero, old)
            whole.copy(from: bytes, at: head.count)
            var rest = whole.slice(head.count + bytes.byteCount..<allocation.guest.count)
            try complete(&rest, tail, tailIsZero, old)
            file.emit(.copyWrite)
            return try data.write(
                buffer.bytes, at: allocation.hostOffset, guest: allocation.guest.lowerBound)
        }
        try copyOld(head, headIsZero, to: allocation.hostOffset, old)
        try data.write(bytes, at: plan.hostOffset, guest: plan.guest.lowerBound)
        try copyOld(tail, tailIsZero, to: plan.hostOffset + bytes.byteCount, old)
    }

    private func readsAsZero(_ kind: L2Entry.Kind, _ range: Range<Int>, _ old: any GuestReader) -> Bool {
        switch kind {
        case .zeroPlain, .zeroAllocated: true
        case .unallocated: !old.hasBacking(in: range)
        case .data, .compressed: false
        }
    }

    private func complete(
        _ part: inout MutableRawSpan, _ guest: Range<Int>, _ isZero: Bool, _ old: any GuestReader
    ) throws(BlockError) {
        if guest.isEmpty { return }
        if !isZero { file.emit(.copyRead) }
        if isZero { part.fill() } else { try old.readOld(into: &part, at: guest.lowerBound) }
    }

    /// Copies old guest bytes to new clusters.
    private func copyOld(
        _ guest: Range<Int>, _ isZero: Bool, to hostOffset: Int, _ old: any GuestReader
    ) throws(BlockError) {
        if guest.isEmpty { return }
        file.emit(isZero ? .copyWrite : .copyRead)
        if isZero {
            return try data.writeZeroes(at: hostOffset, count: guest.count, guest: guest.lowerBound)
        }
        let buffer = AlignedBuffer(count: min(guest.count, 1 << 20))
        var done = 0
        while done < guest.count {
            let count = min(buffer.count, guest.count - done)
            var part = buffer.mutableBytes(0..<count)
            try old.readOld(into: &part, at: guest.lowerBound + done)
            file.emit(.copyWrite)
            try data.write(
                buffer.bytes(0..<count), at: hostOffset + done, guest: guest.lowerBound + done)
            done += count
        }
    }
}

extension Qcow2Metadata {
    /// Decides where the first part of a write to `guest` goes. From then on a write is in flight: its
    /// cluster must not become somebody else's before the data is there.
    func plan(_ guest: Range<Int>) throws(BlockError) -> Qcow2Driver.WritePlan {
        if layout.hasSubclusters { return try planSubclusters(guest) }
        let start = guest.lowerBound
        let (slot, first) = try changeableL2Slot(start)
        let buffer = l2Cache.bytes(of: slot)
        let slice = buffer.bytes
        let entry = L2Entry(raw: slice.bigEndian(at: first &* 8) ?? 0)
        let kind = entry.kind(layout)
        let inside = start & (layout.clusterSize - 1)
        let perSlice = l2Cache.sliceSize / 8
        let wanted = min(layout.clusters(inside + guest.count), perSlice - first)
        let isOwn = entry.isCopied && (kind == .data || kind == .zeroAllocated)
        if isOwn { try checkDataOffset(entry, guest: start - inside) }
        var count = 1
        while count < wanted {
            let next = L2Entry(raw: slice.bigEndian(at: (first &+ count) &* 8) ?? 0)
            let nextKind = next.kind(layout)
            let nextIsOwn = next.isCopied && (nextKind == .data || nextKind == .zeroAllocated)
            guard nextIsOwn == isOwn else { break }
            if isOwn {
                guard nextKind == kind, next.hostOffset == entry.hostOffset + count << layout.clusterBits
                else { break }
            }
            count += 1
        }
        if isOwn && !data.isExternal { try checkGuestClusters(entry.hostOffset, count: count) }
        let clusters = start - inside..<start - inside + count << layout.clusterBits
        let part = start..<min(guest.upperBound, clusters.upperBound)
        if isOwn && kind == .data {
            writesInFlight += 1
            return Qcow2Driver.WritePlan(guest: part, hostOffset: entry.hostOffset + inside, allocation: nil)
        }
        let last: UInt64 = slice.bigEndian(at: (first + count - 1) * 8) ?? 0
        let lastKind = L2Entry(raw: last).kind(layout)
        let allocation = try allocate(
            clusters, for: part, reusing: isOwn ? entry.hostOffset : nil, kinds: (kind, lastKind))
        writesInFlight += 1
        return Qcow2Driver.WritePlan(
            guest: part, hostOffset: allocation.hostOffset + inside, allocation: allocation)
    }

    /// Finds place for whole guest clusters, of which `used` is to be written.
    private func allocate(
        _ clusters: Range<Int>, for used: Range<Int>, reusing: Int?, kinds: (L2Entry.Kind, L2Entry.Kind)
    ) throws(BlockError) -> Qcow2Driver.Allocation {
        var allocation = Qcow2Driver.Allocation(
            guest: clusters, hostOffset: reusing ?? 0, isVirgin: false, isReused: reusing != nil,
            headKind: kinds.0, tailKind: kinds.1)
        if data.isExternal {
            allocation.hostOffset = clusters.lowerBound
            // The disk may end inside the last cluster; so does the data file.
            let end = max(used.upperBound, header.virtualSize)
            allocation.guest = clusters.lowerBound..<min(clusters.upperBound, end)
            return allocation
        }
        if reusing != nil { return allocation }
        try beginLazyRefcounts()
        let store = try refcounts()
        let virgin = store.virginCluster
        let first = try store.allocate(clusters.count >> layout.clusterBits)
        allocation.hostOffset = first << layout.clusterBits
        allocation.isVirgin = first >= virgin && data.isZeroInitialised
        return allocation
    }

    /// Points the L2 entries to clusters whose data is in the file, and releases what they pointed to.
    ///
    /// - Parameter asZero: they keep their place, and read as zeroes whatever is there (version 3).
    /// A failure gives back the clusters that are not linked.
    func link(_ allocation: Qcow2Driver.Allocation, asZero: Bool = false) throws(BlockError) {
        if layout.hasSubclusters { return try linkSubclusters(allocation, asZero: asZero) }
        try eachCluster(of: allocation) { guest, host throws(BlockError) in
            let (slot, entry) = try changeableL2Slot(guest)
            let old = L2Entry(raw: l2Cache.bigEndian64(slot, entry))
            l2Cache.setBigEndian64(
                slot, entry, to: L2Entry.data(at: host).raw | (asZero ? L2Entry.zeroFlag : 0))
            if !allocation.isReused { release(old) }
        }
        if hasTooManyFrees { try commit() }
    }

    /// Calls `body`, which links it, for each cluster of an allocation.
    func eachCluster(
        of allocation: Qcow2Driver.Allocation,
        _ body: (_ guest: Int, _ host: Int) throws(BlockError) -> Void
    ) throws(BlockError) {
        hasUnflushedWrites = true
        var rest = allocation
        let lead = allocation.guest.lowerBound - layout.roundedDown(allocation.guest.lowerBound)
        var guest = allocation.guest.lowerBound - lead
        var host = allocation.hostOffset - lead
        while guest < allocation.guest.upperBound {
            do throws(BlockError) { try body(guest, host) } catch {
                giveBack(rest)
                throw error
            }
            guest += layout.clusterSize
            host += layout.clusterSize
            rest.guest = min(guest, allocation.guest.upperBound)..<allocation.guest.upperBound
            rest.hostOffset = host
        }
    }

    /// The slot and number of a guest cluster's entry, in a table that is the image's own and has its space.
    func changeableL2Slot(_ guestOffset: Int) throws(BlockError) -> (slot: Int, entry: Int) {
        let found = try l2Slot(table: try writableL2Table(guestOffset), index: l2Index(guestOffset))
        try l2Cache.reserve(found.slot)
        return found
    }

    /// Frees clusters that no entry ever referred to.
    func giveBack(_ allocation: Qcow2Driver.Allocation) {
        guard !allocation.isReused, !data.isExternal, let store = try? refcounts() else { return }
        let first = allocation.hostOffset >> layout.clusterBits
        store.giveBack(first..<layout.clusters(allocation.hostOffset + allocation.guest.count))
    }
}
