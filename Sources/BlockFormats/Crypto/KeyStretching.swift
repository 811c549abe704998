import BlockCore

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Measures how many iterations of PBKDF2 take a given time on this machine.
enum KeyStretching {
    /// The smallest number of iterations, also on a slow machine.
    static let minimumIterations = 1000
    /// The least time of a measurement, long enough for the clock's precision.
    private static let sampleNanoseconds = 10_000_000

    /// Iterations that derive `keyBytes` bytes in about `milliseconds` of processor time: at least
    /// ``minimumIterations``, at most `maximum`.
    static func iterations(
        _ hash: HashAlgorithm, keyBytes: Int, milliseconds: Int, maximum: Int
    ) throws(BlockError) -> Int {
        guard milliseconds > 0 else { return minimumIterations }
        let password = try LibCrypto.randomBytes(16)
        let salt = try LibCrypto.randomBytes(32)
        var count = 1 << 12
        while true {
            let began = processorTime()
            _ = try KeyMaterial(count: keyBytes) { key throws(BlockError) in
                try LibCrypto.deriveKey(
                    from: password.span.bytes, salt: salt.span.bytes, iterations: count, hash, into: &key)
            }
            let elapsed = processorTime() - began
            if elapsed >= sampleNanoseconds || count >= maximum {
                let rate = Double(count) / Double(max(elapsed, 1)) * 1_000_000
                let wanted = min(rate * Double(milliseconds), Double(maximum))
                return max(minimumIterations, Int(wanted))
            }
            count *= 2
        }
    }

    /// The processor time of this thread, in nanoseconds.
    private static func processorTime() -> Int {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return time.tv_sec * 1_000_000_000 + time.tv_nsec
    }
}
