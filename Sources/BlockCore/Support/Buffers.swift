#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// A page-aligned block of memory with one owner at a time.
///
/// Not thread-safe: pass a buffer from thread to thread, never share it while it is written.
public final class AlignedBuffer: @unchecked Sendable {
    /// The alignment in bytes of every buffer; enough for O_DIRECT on any device.
    public static let alignmentBytes = 4096

    @usableFromInline
    let storage: UnsafeMutableRawBufferPointer

    /// A buffer of `count` bytes.
    ///
    /// Its contents are zero when `zeroed`, else unspecified.
    public init(count: Int, zeroed: Bool = false) {
        storage = .allocate(byteCount: max(count, 1), alignment: Self.alignmentBytes)
        self.count = count
        // memset: the library's own loop is very slow in debug builds, in which the tests run.
        if zeroed, let start = storage.baseAddress { memset(start, 0, storage.count) }
    }

    deinit { storage.deallocate() }

    /// The size in bytes.
    public let count: Int

    /// The contents.
    @inlinable
    public var bytes: RawSpan {
        @_lifetime(borrow self)
        get {
            let span = RawSpan(_unsafeBytes: UnsafeRawBufferPointer(rebasing: storage[0..<count]))
            return _overrideLifetime(span, borrowing: self)
        }
    }

    /// The contents, to be changed.
    ///
    /// The caller must be the only user of the buffer meanwhile.
    @inlinable
    public var mutableBytes: MutableRawSpan {
        @_lifetime(borrow self)
        get {
            let span = MutableRawSpan(
                _unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: storage[0..<count]))
            return _overrideLifetime(span, borrowing: self)
        }
    }

    /// The part `range` of the contents.
    @inlinable
    @_lifetime(borrow self)
    public func bytes(_ range: Range<Int>) -> RawSpan {
        // In a release build, a part of a raw buffer is not checked.
        precondition(range.lowerBound >= 0 && range.upperBound <= count, "outside the buffer")
        let span = RawSpan(_unsafeBytes: UnsafeRawBufferPointer(rebasing: storage[0..<count][range]))
        return _overrideLifetime(span, borrowing: self)
    }

    /// The part `range` of the contents, to be changed.
    @inlinable
    @_lifetime(borrow self)
    public func mutableBytes(_ range: Range<Int>) -> MutableRawSpan {
        precondition(range.lowerBound >= 0 && range.upperBound <= count, "outside the buffer")
        let span = MutableRawSpan(
            _unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: storage[0..<count][range]))
        return _overrideLifetime(span, borrowing: self)
    }
}

extension MutableRawSpan {
    /// The part `range` of this span.
    ///
    /// Traps when out of bounds: the caller has checked `range`.
    @inlinable
    @_lifetime(&self)
    public mutating func slice(_ range: Range<Int>) -> MutableRawSpan {
        _mutatingExtracting(range)
    }

    /// Sets every byte to `byte`.
    public mutating func fill(_ byte: UInt8 = 0) {
        withUnsafeMutableBytes { buffer in
            if let start = buffer.baseAddress { memset(start, Int32(byte), buffer.count) }
        }
    }

    /// Copies all of `source` to `offset`.
    ///
    /// Traps when it does not fit.
    public mutating func copy(from source: RawSpan, at offset: Int = 0) {
        precondition(offset >= 0 && source.byteCount <= byteCount - offset)
        withUnsafeMutableBytes { target in
            source.withUnsafeBytes { bytes in
                UnsafeMutableRawBufferPointer(rebasing: target[offset...]).copyMemory(from: bytes)
            }
        }
    }
}

extension RawSpan {
    /// Whether every byte is zero.
    public var isZero: Bool { zeroPrefixCount == byteCount }

    /// The number of zero bytes at the start, counted in steps of 64 bytes: at most 63 too low, and exact if
    /// all bytes are zero.
    private var zeroPrefixCount: Int {
        withUnsafeBytes { buffer in
            var index = 0
            while index &+ 64 <= buffer.count {
                var bits: UInt64 = 0
                for lane in 0..<8 {
                    bits |= buffer.loadUnaligned(fromByteOffset: index &+ lane &* 8, as: UInt64.self)
                }
                if bits != 0 { return index }
                index &+= 64
            }
            while index < buffer.count {
                if buffer[index] != 0 { return index }
                index &+= 1
            }
            return index
        }
    }

    /// Whether both spans hold the same bytes.
    public func hasSameBytes(as other: RawSpan) -> Bool {
        guard byteCount == other.byteCount else { return false }
        return withUnsafeBytes { mine in
            other.withUnsafeBytes { theirs in
                guard let left = mine.baseAddress, let right = theirs.baseAddress else { return true }
                return memcmp(left, right, mine.count) == 0
            }
        }
    }

    /// The bytes as an array.
    public var array: [UInt8] { withUnsafeBytes { Array($0) } }
}

extension [UInt8] {
    /// `count` zero bytes, changed by `body`.
    ///
    /// - Throws: errors of `body`.
    public init<Failure: Error>(
        zeroed count: Int, _ body: (inout MutableRawSpan) throws(Failure) -> Void
    ) throws(Failure) {
        self.init(repeating: 0, count: count)
        try edit(body)
    }

    /// Runs `body` on the bytes, which it may change in place.
    ///
    /// - Throws: errors of `body`.
    public mutating func edit<Result, Failure: Error>(
        _ body: (inout MutableRawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        var elements = mutableSpan
        var bytes = elements.mutableBytes
        return try body(&bytes)
    }
}
