/// The one loop for zeroes and discards, and the choice above it: whole units are cleared by the driver, a
/// part of a unit that stores nothing becomes zero with its whole unit, other parts get zeroes as data.
extension BlockNode {
    /// The most zeroes that one write stores as data, in bytes.
    private static let zeroBytes = Int.mib(1)

    /// See ``Clearing/marksZeroes``; `false` for a driver that is not ``Clearing``.
    public var marksZeroes: Bool { unfiltered.clearing?.marksZeroes ?? false }
    /// See ``Clearing/zeroGranularity``, in bytes; `nil` for a driver that is not ``Clearing``.
    public var zeroGranularity: Int? { clearing?.zeroGranularity }
    /// See ``Clearing/discardGranularity``, in bytes; `nil` for a driver that is not ``Clearing``.
    public var discardGranularity: Int? { clearing?.discardGranularity }

    /// Clears whole units of the guest's disk, run by run.
    ///
    /// - Parameter noFallback: whether to fail rather than store zeroes as data.
    /// - Throws: errors of the driver and of the files; `unsupported` with `noFallback`.
    func clear(
        _ range: Range<Int>, _ mode: ClearMode, noFallback: Bool = false, _ guest: GuestAccess
    ) throws(BlockError) {
        var offset = range.lowerBound
        while offset < range.upperBound {
            let rest = offset..<range.upperBound
            let step =
                try clearing?.clear(rest, mode, over: guest.backingEnd)
                ?? ClearStep(.store, length: rest.count)
            let part = offset..<offset + min(max(step.length, 1), rest.count)
            switch step.action {
            case .done: break
            case .zero(let grant): try storeZeroes(grant, mode.flags, guest)
            case .discard(let grant):
                try complete(grant, guest) { () throws(BlockError) in
                    try grant.file.discard(at: grant.hostOffset, count: grant.units.count)
                }
            case .store: if mode != .discard { try storeZeroes(in: part, noFallback: noFallback, guest) }
            }
            offset = part.upperBound
        }
    }

    /// Makes any range read as zeroes.
    func zero(_ range: Range<Int>, _ flags: ZeroFlags, _ guest: GuestAccess) throws(BlockError) {
        let noFallback = flags.contains(.noFallback)
        guard let unit = zeroGranularity else {
            return try storeZeroes(in: range, noFallback: noFallback, guest)
        }
        let whole = wholeUnits(of: range, unit: unit, end: guest.driver.virtualSize)
        guard !whole.isEmpty else { return try zeroParts(of: range, unit, flags, guest) }
        try zeroParts(of: range.lowerBound..<whole.lowerBound, unit, flags, guest)
        let mode = ClearMode.zero(keepsSpace: !flags.contains(.mayUnmap))
        try clear(whole, mode, noFallback: noFallback, guest)
        try zeroParts(of: whole.upperBound..<range.upperBound, unit, flags, guest)
    }

    /// Zeroes parts of units. A unit that is unallocated in this layer and reads as zeroes is marked zero as
    /// a whole: the part then stays zero over any later backing file.
    private func zeroParts(
        of range: Range<Int>, _ unitBytes: Int, _ flags: ZeroFlags, _ guest: GuestAccess
    ) throws(BlockError) {
        let marks = marksZeroes
        var rest = range
        while !rest.isEmpty {
            let start = rest.lowerBound.roundedDown(to: unitBytes)
            let unit = start..<min(guest.driver.virtualSize, start + unitBytes)
            let part = rest.clamped(to: unit)
            if marks, try readsAsZeroFromBelow(unit) {
                try clear(unit, .zero(keepsSpace: true), guest)
            } else {
                try storeZeroes(in: part, noFallback: flags.contains(.noFallback), guest)
            }
            rest = part.upperBound..<rest.upperBound
        }
    }

    /// Whether a unit has no entry in this layer and reads as zeroes.
    private func readsAsZeroFromBelow(_ unit: Range<Int>) throws(BlockError) -> Bool {
        var offset = unit.lowerBound
        while offset < unit.upperBound {
            let own = try layerExtent(at: offset, limit: unit.upperBound - offset)
            guard own.status == .unallocated else { return false }
            let here = try status(at: offset, limit: own.length)
            guard here.isZero else { return false }
            offset += here.length
        }
        return true
    }

    /// Writes zeroes as data, except over runs that already read as zeroes.
    private func storeZeroes(
        in range: Range<Int>, noFallback: Bool, _ guest: GuestAccess
    ) throws(BlockError) {
        var offset = range.lowerBound
        var zeroes: AlignedBuffer?
        // Behind the end of the disk no map shows which bytes are zero.
        let end = guest.driver.virtualSize
        while offset < range.upperBound {
            let left = range.upperBound - offset
            var count = left
            if offset < end {
                let here = try status(at: offset, limit: min(left, end - offset))
                count = here.length
                if here.isZero {
                    offset += count
                    continue
                }
            }
            if noFallback {
                throw BlockError(.unsupported, "Operation not supported", path: filename, offset: offset)
            }
            let buffer = zeroes ?? AlignedBuffer(count: min(left, Self.zeroBytes), zeroed: true)
            zeroes = buffer
            count = min(count, buffer.count)
            try store(buffer.bytes(0..<count), at: offset, guest)
            offset += count
        }
    }

    /// The whole units inside `range`; the last unit of the disk may be short.
    func wholeUnits(of range: Range<Int>, unit: Int, end: Int) -> Range<Int> {
        let lower = range.lowerBound.roundedUp(to: unit) ?? Int.max
        let upper = range.upperBound == end ? end : range.upperBound.roundedDown(to: unit)
        return lower < upper ? lower..<upper : lower..<lower
    }
}
