import BlockCore
import SystemPackage

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Repeats `pread` and `pwrite` until all bytes are transferred. The one file with raw pointers to data.
enum PositionedIO {
    /// Reads until `buffer` is full or the file ends.
    ///
    /// - Parameter unit: the alignment in bytes: a transfer that is no multiple of it has reached the end of
    ///   the file.
    /// - Returns: how many bytes were read.
    static func read(
        _ descriptor: Int32, into buffer: inout MutableRawSpan, at offset: Int, unit: Int = 1,
        through queue: RequestQueue? = nil
    ) throws(Errno) -> Int {
        try buffer.withUnsafeMutableBytes { (bytes) throws(Errno) -> Int in
            var done = 0
            while done < bytes.count {
                if let got = try queue?.read(
                    descriptor, bytes.baseAddress?.advanced(by: done), bytes.count - done,
                    at: offset + done)
                {
                    done += got
                    if got == 0 || done % unit != 0 { break }
                    continue
                }
                let got = pread(
                    descriptor, bytes.baseAddress?.advanced(by: done), bytes.count - done,
                    off_t(offset + done))
                if got < 0 {
                    let code = Errno(rawValue: errno)
                    if code != .interrupted { throw code }
                    continue
                }
                done += got
                if got == 0 || done % unit != 0 { break }
            }
            return done
        }
    }

    /// Writes all of `bytes`.
    static func write(
        _ descriptor: Int32, _ bytes: RawSpan, at offset: Int, through queue: RequestQueue? = nil
    ) throws(Errno) {
        try bytes.withUnsafeBytes { (bytes) throws(Errno) in
            var done = 0
            while done < bytes.count {
                if let put = try queue?.write(
                    descriptor, bytes.baseAddress?.advanced(by: done), bytes.count - done,
                    at: offset + done)
                {
                    if put == 0 { throw .ioError }
                    done += put
                    continue
                }
                let put = pwrite(
                    descriptor, bytes.baseAddress?.advanced(by: done), bytes.count - done,
                    off_t(offset + done))
                if put > 0 {
                    done += put
                } else {
                    let code = put == 0 ? Errno.ioError : Errno(rawValue: errno)
                    if code != .interrupted { throw code }
                }
            }
        }
    }

    /// Appends all of `bytes` to a stream that has no positions.
    static func append(_ descriptor: Int32, _ bytes: RawSpan) throws(Errno) {
        try bytes.withUnsafeBytes { (bytes) throws(Errno) in
            var done = 0
            while done < bytes.count {
                let put = systemWrite(descriptor, bytes.baseAddress?.advanced(by: done), bytes.count - done)
                if put >= 0 { done += put } else if errno != EINTR { throw Errno(rawValue: errno) }
            }
        }
    }

    /// Reads the next bytes of a stream, at most `buffer.byteCount`, and returns how many; 0 at its end.
    static func take(_ descriptor: Int32, into buffer: inout MutableRawSpan) throws(Errno) -> Int {
        try buffer.withUnsafeMutableBytes { (bytes) throws(Errno) -> Int in
            while true {
                let got = systemRead(descriptor, bytes.baseAddress, bytes.count)
                if got >= 0 { return got }
                if errno != EINTR { throw Errno(rawValue: errno) }
            }
        }
    }
}

/// The C functions, under names that the methods above do not hide.
private func systemWrite(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int {
    write(descriptor, bytes, count)
}

private func systemRead(_ descriptor: Int32, _ bytes: UnsafeMutableRawPointer?, _ count: Int) -> Int {
    read(descriptor, bytes, count)
}

extension RawSpan {
    /// Whether the bytes start at a multiple of `alignment` in memory.
    func isAligned(to alignment: Int) -> Bool {
        withUnsafeBytes { UInt(bitPattern: $0.baseAddress) % UInt(alignment) == 0 }
    }
}

extension MutableRawSpan {
    /// Whether the bytes start at a multiple of `alignment` in memory.
    func isAligned(to alignment: Int) -> Bool {
        withUnsafeBytes { UInt(bitPattern: $0.baseAddress) % UInt(alignment) == 0 }
    }
}
