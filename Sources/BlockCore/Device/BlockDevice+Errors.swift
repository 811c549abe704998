/// What a device does with failed requests.
extension BlockDevice {
    /// What follows an error.
    ///
    /// The names are those of QEMU's `rerror` and `werror`.
    public enum ErrorAction: String, Sendable, CaseIterable {
        /// The guest gets the error.
        case report
        /// The guest is told that the request has succeeded.
        case ignore
        /// The device stops: the request, and those that follow, wait for ``BlockDevice/resume()``.
        case stop
        /// As `stop` for a full disk, else as `report`.
        case enospc
    }

    /// The actions for both directions.
    public struct ErrorPolicy: Sendable, Equatable {
        public var read = ErrorAction.report
        /// For writes, zeroes, discards and flushes.
        public var write = ErrorAction.enospc

        /// A policy of the two actions.
        public init(read: ErrorAction = .report, write: ErrorAction = .enospc) {
            self.read = read
            self.write = write
        }
    }

    /// Whether a request has failed since the status was reset.
    public enum IOStatus: String, Sendable {
        case ok
        case failed
        case noSpace = "nospace"
    }

    enum Direction { case read, write }

    /// The actions after an error; they hold for errors from now on.
    public var policy: ErrorPolicy {
        get { state.withLock { $0.policy } }
        set { state.withLock { $0.policy = newValue } }
    }

    /// The first failure that stopped the device since ``resetIOStatus()``.
    public var ioStatus: IOStatus { state.withLock { $0.ioStatus } }

    /// Whether requests wait for ``resume()``.
    public var isStopped: Bool { state.withLock { $0.isStopped } }

    /// Sets ``ioStatus`` to `ok`.
    public func resetIOStatus() { state.withLock { $0.ioStatus = .ok } }

    /// Stops the device: requests wait for ``resume()``, those under way end.
    public func stop() { state.withLock { $0.isStopped = true } }

    /// Lets a stopped device go on: requests that had failed are tried again, and the status is reset.
    public func resume() {
        state.withLock { state in
            state.isStopped = false
            state.ioStatus = .ok
        }
        state.notifyAll()
    }

    /// Applies the policy to an error of a request that has ended.
    ///
    /// - Parameter range: the request's bytes; an error outside the disk is the guest's own.
    /// - Returns: `true` when the request counts as done; `false` when it is to be tried again.
    /// - Throws: the error, when it is reported.
    func ignores(
        _ error: BlockError, _ direction: Direction, _ range: Range<Int>?
    ) throws(BlockError) -> Bool {
        // Not failures of the medium: they would be the same at the next try.
        guard [.io, .noSpace, .corrupt].contains(error.kind), let root else { throw error }
        if root.isClosed { throw error }
        if let range, range.lowerBound < 0 || range.upperBound > (try? root.length()) ?? .max { throw error }
        let action = state.withLock { state -> ErrorAction in
            var action = direction == .read ? state.policy.read : state.policy.write
            if action == .enospc { action = error.kind == .noSpace ? .stop : .report }
            guard action == .stop, !state.isClosed else { return action }
            state.isStopped = true
            if state.ioStatus == .ok { state.ioStatus = error.kind == .noSpace ? .noSpace : .failed }
            return action
        }
        switch action {
        case .report, .enospc: throw error
        case .ignore: return true
        case .stop:
            state.notifyAll()
            return false
        }
    }

    /// Waits until the device stops, at most that long; for a caller that watches it.
    ///
    /// - Returns: whether it is stopped.
    public func waitUntilStopped(
        clock: any BlockClock = SystemClock(), atMost nanoseconds: Int = .max
    ) -> Bool {
        let (end, overflow) = clock.now().addingReportingOverflow(nanoseconds)
        return clock.wait(on: state, until: overflow ? .max : end) { $0.isStopped }
    }
}
