import Synchronization

extension BlockNode {
    /// Stores `bytes` at `offset`, in bytes.
    ///
    /// No alignment is needed.
    ///
    /// - Throws: `readOnly`; `io`, also past the end of a disk and once the node is closed; `noSpace`;
    ///   `corrupt`; `limit`.
    public func write(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        if settings.detectZeroes != .off, bytes.byteCount > 0, bytes.isZero {
            let flags: ZeroFlags = settings.detectZeroes == .unmap ? .mayUnmap : []
            return try writeZeroes(at: offset, count: bytes.byteCount, flags: flags)
        }
        var request = begin(.write, at: offset, count: bytes.byteCount)
        defer { end(request) }
        try checkWritable()
        switch layer {
        case .storage(let driver):
            try passGate(.write, bytes.byteCount)
            emit(.storageWrite)
            try openStorage(driver).write(bytes, at: offset)
            emit(.storageWritten)
        case .format(let driver):
            if settings.holdsImage { try makeRoom(offset, bytes.byteCount, driver) }
            try change(offset, bytes.byteCount, driver) { range throws(BlockError) in
                try noteChange(in: range)
                try store(bytes, at: offset, GuestAccess(self, driver))
                for observer in observers.all { observer.didWrite(bytes, at: offset) }
            }
        case .filter(let driver):
            let ticket = try beginPassing(offset, bytes.byteCount)
            defer { requests.release(ticket) }
            ownListener?.hear(.storageWrite)
            try driver.write(bytes, at: offset)
            ownListener?.hear(.storageWritten)
        }
        needsFlush.store(true, ordering: .relaxed)
        request.outcome = .done
    }

    /// Stores `payload`, the unit at `offset` as ``CompressedWriting/compress(_:into:)`` compressed it.
    ///
    /// - Throws: as ``write(_:at:)``; `unsupported` when the format does not compress.
    public func writeCompressed(_ payload: RawSpan, at offset: Int) throws(BlockError) {
        var request = begin(.write, at: offset)
        defer { end(request) }
        try checkWritable()
        guard let driver = format as? any CompressedWriting else {
            throw BlockError(.unsupported, "Compression not supported for this file format", path: filename)
        }
        let count = min(driver.compressedUnitBytes, driver.virtualSize - offset)
        request.count = count
        try change(offset, count, driver) { range throws(BlockError) in
            try noteChange(in: range)
            try driver.writeCompressed(payload, at: offset)
            for observer in observers.all { observer.didChange(range) }
        }
        needsFlush.store(true, ordering: .relaxed)
        request.outcome = .done
    }

    /// Makes the range read as zeroes by the first way that works: unmap, allocate as zeroes, write zeroes.
    ///
    /// Offset and count are in bytes; no alignment is needed.
    ///
    /// - Throws: as ``write(_:at:)``; `unsupported` with ``ZeroFlags/noFallback``.
    public func writeZeroes(at offset: Int, count: Int, flags: ZeroFlags = .mayUnmap) throws(BlockError) {
        var request = begin(.write, at: offset, count: count)
        defer { end(request) }
        try checkWritable()
        guard count > 0 else { return request.outcome = .uncounted }
        switch layer {
        case .storage(let driver):
            try passGate(.write, count)
            emit(.storageZero)
            try openStorage(driver).writeZeroes(at: offset, count: count, flags: flags)
        case .format(let driver):
            if settings.holdsImage { try makeRoom(offset, count, driver) }
            try change(offset, count, driver, unit: zeroGranularity ?? 1) { range throws(BlockError) in
                try noteChange(in: range)
                try zero(range, flags, GuestAccess(self, driver))
                for observer in observers.all { observer.didZero(range) }
            }
        case .filter(let driver):
            let ticket = try beginPassing(offset, count)
            defer { requests.release(ticket) }
            ownListener?.hear(.storageZero)
            try driver.writeZeroes(at: offset, count: count, flags: flags)
        }
        needsFlush.store(true, ordering: .relaxed)
        request.outcome = .done
    }

    /// Gives the range's space back if the format and the file can.
    ///
    /// Parts of units are left alone.
    ///
    /// - Throws: as ``write(_:at:)``.
    public func discard(at offset: Int, count: Int) throws(BlockError) {
        var request = begin(.discard, at: offset, count: count)
        defer { end(request) }
        try checkWritable()
        guard count > 0 else { return request.outcome = .uncounted }
        switch layer {
        case .storage(let driver):
            try passGate(.write, count)
            try openStorage(driver).discard(at: offset, count: count)
        case .format(let driver):
            guard let unit = discardGranularity else { return request.outcome = .uncounted }
            try change(offset, count, driver) { range throws(BlockError) in
                let whole = wholeUnits(of: range, unit: unit, end: driver.virtualSize)
                guard !whole.isEmpty else { return }
                try noteChange(in: whole)
                try clear(whole, .discard, GuestAccess(self, driver))
                for observer in observers.all { observer.didDiscard(whole) }
            }
        case .filter(let driver):
            let ticket = try beginPassing(offset, count)
            defer { requests.release(ticket) }
            try driver.discard(at: offset, count: count)
        }
        needsFlush.store(true, ordering: .relaxed)
        request.outcome = .done
    }

    /// Changes the length of the file, or the size of the disk, to `size` bytes, after waiting until no other
    /// request is under way.
    ///
    /// New space reads as zeroes.
    ///
    /// - Throws: `unsupported` when the format or the image cannot be resized; `busy` while a job uses the
    ///   node; `readOnly`, `invalidArgument`, `limit`, `noSpace`, `io`, `corrupt`.
    public func resize(to size: Int, preallocation: Preallocation = .off) throws(BlockError) {
        try checkWritable()
        let ticket = acquireAll()
        defer { requests.releaseAll(ticket) }
        try checkChangeable()
        try checkUnused()
        switch layer {
        case .storage(let driver):
            seenLength.store(0, ordering: .relaxed)
            try driver.truncate(to: size, preallocation: preallocation)
        case .filter(let driver):
            seenLength.store(0, ordering: .relaxed)
            try driver.resize(to: size, preallocation: preallocation)
        case .format(let driver):
            guard let resizable = driver as? any Resizable else {
                throw BlockError(.unsupported, "Image format driver does not support resize", path: filename)
            }
            let before = driver.virtualSize
            defer { noteSize(driver, before) }
            if size >= 0, size < before { try willChange(size..<before) }
            do throws(BlockError) {
                try resizable.resize(
                    to: size, preallocation: preallocation, guest: GuestAccess(self, driver))
            } catch { throw error.concerning(filename) }
            try hideBacking(driver, from: before, to: size)
        }
    }

    /// Grows a disk that holds another image up to the end of a write.
    ///
    /// - Throws: `noSpace` when its size is fixed.
    private func makeRoom(_ offset: Int, _ count: Int, _ driver: any FormatDriver) throws(BlockError) {
        let (end, overflow) = offset.addingReportingOverflow(count)
        guard !overflow, end > driver.virtualSize else { return }
        let ticket = requests.acquireAll()
        defer { requests.releaseAll(ticket) }
        try checkChangeable()
        guard end > driver.virtualSize else { return }
        let before = driver.virtualSize
        defer { noteSize(driver, before) }
        do throws(BlockError) {
            guard let resizable = driver as? any Resizable else { throw BlockError(.unsupported, "") }
            try resizable.resize(
                to: end, preallocation: .off, guest: GuestAccess(self, driver))
        } catch {
            guard error.kind == .unsupported else { throw error }
            // ENOSPC: the error of a full disk.
            throw BlockError(.noSpace, "No space left on device", errno: 28, offset: offset)
        }
    }

    /// Makes every unit of this layer unallocated, so that the backing node shows through.
    ///
    /// Durable on return.
    ///
    /// - Throws: `unsupported` when the format cannot; `busy` while a job uses the node; `readOnly`, `io`,
    ///   `corrupt`.
    public func makeEmpty() throws(BlockError) {
        if let shownChild { return try shownChild.makeEmpty() }
        try checkWritable()
        guard let driver = format as? any Emptying else {
            throw BlockError(
                .unsupported, "Format driver '\(driverName)' cannot empty an image", path: filename)
        }
        let ticket = acquireAll()
        defer { requests.releaseAll(ticket) }
        try checkChangeable()
        try checkUnused()
        file?.emit(.emptyPrepare)
        try noteChange(in: 0..<driver.virtualSize)
        try driver.makeEmpty()
        for observer in observers.all { observer.didChange(0..<driver.virtualSize) }
    }

    /// Tells the observers where the size is another one, also when the change failed later.
    private func noteSize(_ driver: any FormatDriver, _ before: Int) {
        guard driver.virtualSize != before else { return }
        for observer in observers.all { observer.didResize(to: driver.virtualSize) }
    }

    /// Zeroes new space over a longer backing file, whose bytes would show through it.
    private func hideBacking(_ driver: any FormatDriver, from old: Int, to new: Int) throws(BlockError) {
        guard new > old, let backing else { return }
        let exposed = min(new, try backing.length())
        guard exposed > old else { return }
        try zero(old..<exposed, [], GuestAccess(self, driver))
        try driver.flush()
    }

    func checkWritable() throws(BlockError) {
        if isReadOnly {
            throw BlockError(.readOnly, "Block node is read-only", path: filename)
        }
    }

    /// Runs `body`, which changes a range of the disk, with the units around it to itself; writes through.
    ///
    /// - Parameter unit: of what size the units are at least, in bytes.
    /// - Throws: `io` past the end of the disk, also where it shrank while the request waited, and once the
    ///   node is closed; `readOnly`; what `body` throws.
    private func change(
        _ offset: Int, _ count: Int, _ driver: any FormatDriver, unit: Int = 1,
        _ body: (Range<Int>) throws(BlockError) -> Void
    ) throws(BlockError) {
        let range = try checkedRange(offset, count, of: driver)
        try passGate(.write, count)
        let ticket = requests.acquire(clusters(range, driver, unit: unit), exclusive: true)
        defer { requests.release(ticket) }
        try checkChangeable()
        let present = try checkedRange(offset, count, of: driver)
        do throws(BlockError) { try body(present) } catch {
            for observer in observers.all { observer.didFail(present) }
            throw error
        }
        if settings.cache.isWriteThrough { try driver.flush() }
    }

    /// `range` grown to whole units of the format, of `unit` bytes at least.
    func clusters(_ range: Range<Int>, _ driver: any FormatDriver, unit: Int = 1) -> Range<Int> {
        let unit = max(unit, driver.writeGranularity)
        let lower = range.lowerBound.roundedDown(to: unit)
        return lower..<(range.upperBound.roundedUp(to: unit) ?? Int.max)
    }
}
