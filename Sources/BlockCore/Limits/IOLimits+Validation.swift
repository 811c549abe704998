extension IOLimits {
    /// The largest ``Rate/average`` and ``Rate/maximum``, and the largest burst, in units.
    public static let largestRate = 1_000_000_000_000_000

    /// Checks that the limits can be kept and do not contradict each other.
    ///
    /// - Throws: `invalidArgument`.
    public func validate() throws(BlockError) {
        if bytes.isContradictory || operations.isContradictory {
            throw BlockError(
                .invalidArgument,
                "bps/iops/max total values and read/write values cannot be used at the same time")
        }
        if operationBytes != 0, !operations.isLimited {
            throw BlockError(.invalidArgument, "iops size requires an iops value to be set")
        }
        if operationBytes < 0 { throw Self.outOfRange }
        for place in Self.places { try self[keyPath: place.path].validate() }
    }

    static var outOfRange: BlockError {
        BlockError(.invalidArgument, "bps/iops/max values must be within [0, \(largestRate)]")
    }
}

extension IOLimits.Rates {
    fileprivate var isLimited: Bool { [total, read, write].contains { $0.average > 0 } }

    /// Whether there is a limit for both directions together and one for a single direction.
    fileprivate var isContradictory: Bool {
        let alone = [read, write]
        return total.average != 0 && alone.contains { $0.average != 0 }
            || total.maximum != 0 && alone.contains { $0.maximum != 0 }
    }
}

extension IOLimits.Rate {
    fileprivate func validate() throws(BlockError) {
        let allowed = 0...IOLimits.largestRate
        guard allowed.contains(average), allowed.contains(maximum) else { throw IOLimits.outOfRange }
        guard burstSeconds > 0 else {
            throw BlockError(.invalidArgument, "the burst length cannot be 0")
        }
        guard maximum > 0 else {
            if burstSeconds == 1 { return }
            throw BlockError(.invalidArgument, "burst length set without burst rate")
        }
        guard burstSeconds <= IOLimits.largestRate / maximum else {
            throw BlockError(.invalidArgument, "burst length too high for this burst rate")
        }
        guard average > 0 else {
            throw BlockError(.invalidArgument, "bps_max/iops_max require corresponding bps/iops values")
        }
        guard maximum >= average else {
            throw BlockError(.invalidArgument, "bps_max/iops_max cannot be lower than bps/iops")
        }
    }
}
