import Synchronization

/// A run of a disk's bytes that one file stores as they are, neither compressed nor encrypted.
public struct PlainPlace: Sendable {
    /// The storage of the file.
    public var storage: any ProtocolDriver
    /// The offset of the run in the file, in bytes.
    public var offset: Int
    /// The length of the run, in bytes.
    public var count: Int

    /// A run of `count` bytes at `offset`.
    public init(storage: any ProtocolDriver, offset: Int, count: Int) {
        self.storage = storage
        self.offset = offset
        self.count = count
    }

    /// The rest of this place after its first `bytes` bytes; `bytes` is at most ``count``.
    public func advanced(by bytes: Int) -> PlainPlace {
        PlainPlace(storage: storage, offset: offset + bytes, count: count - bytes)
    }
}

/// Writing by sharing space with another file (reflinks) instead of copying bytes.
extension BlockNode {
    /// The alignment of offsets and counts of shared space, in bytes: the block size of most file systems
    /// with reflinks.
    ///
    /// File systems with larger blocks refuse.
    public static let sharingAlignment = 4096

    /// The storage in which guest data of this node would share space; `nil` when it is not stored as it is.
    public var sharingStorage: (any ProtocolDriver)? {
        if settings.detectZeroes != .off { return nil }
        guard let format else { return storage }
        guard let child = format.asSpaceSharing?.sharingChild, children.indices.contains(child) else {
            return nil
        }
        return children[child].sharingStorage
    }

    /// Stores the first `count` bytes of `source` at `offset`, by sharing their space with the file of
    /// `source`.
    ///
    /// Offsets and `count` are multiples of the format's write granularity and of ``sharingAlignment``.
    ///
    /// - Returns: how many bytes were stored. When these are fewer than `count` (also 0), the caller writes
    ///   the rest.
    /// - Throws: as ``write(_:at:)``.
    public func share(_ source: PlainPlace, at offset: Int, count: Int) throws(BlockError) -> Int {
        var request = begin(.write, at: offset, count: count)
        defer { end(request) }
        try checkWritable()
        guard count > 0, source.count >= count else {
            request.outcome = .uncounted
            return 0
        }
        var stored = 0
        switch layer {
        case .storage(let driver):
            try passGate(.write, count)
            let isDone = try driver.shareRange(
                from: source.storage, at: source.offset, to: offset, count: count)
            stored = isDone ? count : 0
        case .format(let driver):
            guard let sharing = driver.asSpaceSharing, settings.detectZeroes == .off else {
                request.outcome = .uncounted
                return 0
            }
            let range = try checkedRange(offset, count, of: driver)
            try passGate(.write, count)
            let ticket = requests.acquire(clusters(range, driver), exclusive: true)
            defer { requests.release(ticket) }
            try checkChangeable()
            _ = try checkedRange(offset, count, of: driver)
            try noteChange(in: range)
            do throws(BlockError) {
                stored =
                    sharing.sharingChild == nil
                    ? 0 : try share(source, at: offset, count: count, GuestAccess(self, driver))
            } catch {
                for observer in observers.all { observer.didFail(range) }
                throw error
            }
            for observer in observers.all { observer.didChange(offset..<offset + stored) }
            if settings.cache.isWriteThrough { try driver.flush() }
        // A filter must see the bytes, so they are written, not shared.
        case .filter:
            request.outcome = .uncounted
            return 0
        }
        needsFlush.store(true, ordering: .relaxed)
        request.count = stored
        request.outcome = .done
        return stored
    }

    /// Shares units from the start on, up to the first that needs other bytes to complete it.
    ///
    /// - Returns: how many bytes were stored; the rest is unchanged.
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
                        try grant.file.share(part, at: grant.hostOffset, count: grant.guest.count)
                        == grant.guest.count
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

    /// The place of the bytes at `offset` when one file of the chain stores them as they are: one run of at
    /// most `limit` bytes.
    ///
    /// `nil` for zeroes, encoded or lost bytes, and behind a filter or a node with limits.
    ///
    /// - Throws: `io`, `corrupt`.
    public func plainPlace(at offset: Int, limit: Int) throws(BlockError) -> PlainPlace? {
        var layer = self
        var limit = limit
        while layer.filter == nil, !layer.gate.isClosed {
            let extent = try layer.layerExtent(at: offset, limit: limit)
            limit = extent.length
            switch extent.status {
            case .data(let hostOffset):
                if let storage = layer.storage {
                    return PlainPlace(storage: storage, offset: hostOffset, count: limit)
                }
                let readable = try layer.readableCount(of: extent)
                let child = layer.children[extent.child]
                guard readable > 0, !child.gate.isClosed, let storage = child.storage else { return nil }
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
