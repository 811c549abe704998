import Synchronization

/// Where the bytes of a disk lie plainly in a file.
public struct PlainPlace: Sendable {
    /// What keeps the file.
    public var storage: any ProtocolDriver
    /// Where the bytes begin in it.
    public var offset: Int
    /// How many bytes lie there in a row.
    public var count: Int

    public init(storage: any ProtocolDriver, offset: Int, count: Int) {
        self.storage = storage
        self.offset = offset
        self.count = count
    }

    /// The place `bytes` further on, which is inside this one.
    public func advanced(by bytes: Int) -> PlainPlace {
        PlainPlace(storage: storage, offset: offset + bytes, count: count - bytes)
    }
}

/// Bytes that change their owner without being copied.
extension BlockNode {
    /// What offsets and counts have to be multiples of where space is shared, in bytes: the blocks of the
    /// file systems that can. Those with larger blocks refuse.
    public static let sharingAlignment = 4096

    /// The storage whose space guest data of this node would share; `nil` where data is not kept plainly.
    public var sharingStorage: (any ProtocolDriver)? {
        if settings.detectZeroes != .off { return nil }
        guard let format else { return storage }
        guard let child = (format as? any SpaceSharing)?.sharingChild, children.indices.contains(child) else {
            return nil
        }
        return children[child].sharingStorage
    }

    /// Makes `count` bytes at `offset` those at `source`, by sharing their space with that file. Offsets and
    /// `count` are multiples of the format's write granularity and of ``sharingAlignment``.
    ///
    /// - Returns: how many bytes were stored; fewer than `count`, also 0, where the rest has to be written.
    /// - Throws: as ``write(_:at:)``.
    public func share(_ source: PlainPlace, at offset: Int, count: Int) throws(BlockError) -> Int {
        try checkWritable()
        guard count > 0, source.count >= count else { return 0 }
        let began = statistics.now()
        var stored = 0
        switch layer {
        case .storage(let driver):
            let isDone = try driver.shareRange(
                from: source.storage, at: source.offset, to: offset, count: count)
            stored = isDone ? count : 0
        case .format(let driver):
            guard let sharing = driver as? any SpaceSharing, settings.detectZeroes == .off else { return 0 }
            let range = try checkedRange(offset, count, of: driver)
            let ticket = requests.acquire(clusters(range, driver), exclusive: true)
            defer { requests.release(ticket) }
            try checkChangeable()
            try noteChange(in: range)
            stored =
                sharing.sharingChild == nil
                ? 0 : try share(source, at: offset, count: count, GuestAccess(self, driver))
            if settings.cache.isWriteThrough { try driver.flush() }
        // What passes a filter has to be written, so that the filter gets to see it.
        case .filter: return 0
        }
        needsFlush.store(true, ordering: .relaxed)
        statistics.count(.write, bytes: stored, since: began)
        statistics.noteWritten(upTo: offset + stored)
        return stored
    }

    /// Shares what needs no completing, from the start.
    ///
    /// - Returns: how many bytes were stored; the rest is as it was.
    private func share(
        _ source: PlainPlace, at offset: Int, count: Int, _ guest: GuestAccess
    ) throws(BlockError) -> Int {
        let end = offset + count
        var start = offset
        while start < end {
            let grant = try guest.driver.grant(start..<end, over: guest.backingEnd)
            var isStored = false
            do throws(BlockError) {
                if grant.form == .plain, grant.units == grant.guest {
                    file?.emit(.writeData)
                    let part = source.advanced(by: start - offset)
                    isStored =
                        try grant.file.share(part, at: grant.hostOffset, count: grant.guest.count) > 0
                }
            } catch {
                guest.driver.giveBack(grant)
                throw error
            }
            guard isStored else {
                guest.driver.giveBack(grant)
                break
            }
            try guest.driver.link(grant)
            start = grant.guest.upperBound
        }
        return start - offset
    }

    /// Where the chain keeps the bytes at `offset`, when one file keeps them plainly: one run of at most
    /// `limit` bytes. `nil` where they are zeroes, encoded, lost, or behind a filter.
    ///
    /// - Throws: what asking for the map throws.
    public func plainPlace(at offset: Int, limit: Int) throws(BlockError) -> PlainPlace? {
        var layer = self
        var limit = limit
        while layer.filter == nil {
            let extent = try layer.layerExtent(at: offset, limit: limit)
            limit = extent.length
            switch extent.status {
            case .data(let hostOffset):
                if let storage = layer.storage {
                    return PlainPlace(storage: storage, offset: hostOffset, count: limit)
                }
                let readable = try layer.readableCount(of: extent)
                guard readable > 0, let storage = layer.children[extent.child].storage else { return nil }
                return PlainPlace(storage: storage, offset: hostOffset, count: min(limit, readable))
            case .unallocated:
                guard let next = layer.backing else { return nil }
                let length = try next.length()
                guard offset < length else { return nil }
                limit = min(limit, length - offset)
                layer = next
            case .zero, .encoded: return nil
            }
        }
        return nil
    }
}
