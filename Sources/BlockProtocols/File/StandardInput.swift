import BlockCore
import CHost
import SystemPackage

/// Opens standard input as a file that can be read at any offset.
public enum StandardInput {
    /// The size of the blocks of zeroes that become holes in the temporary file, in bytes.
    private static let blockBytes = 64 << 10
    private static let bufferBytes = Int.mib(1)

    /// Opens the input of `descriptor`: a regular file at its start directly, any other input through an
    /// unnamed temporary file in `$TMPDIR` or `/var/tmp`, which closing the driver removes.
    ///
    /// - Throws: `io`, `noSpace`.
    /// - Complexity: O(*n*) in time and temporary space, unless it is a regular file.
    public static func open(descriptor: Int32 = 0) throws(BlockError) -> FileDriver {
        let options = FileOpenOptions(OpenSettings(readOnly: true))
        let name = "standard input"
        let isDirect = try reporting(name) { () throws(Errno) -> Bool in
            guard try FileStatus(descriptor).kind == .regular else { return false }
            return FileStatus.position(descriptor) == 0
        }
        if isDirect {
            let own = try reporting(name) { () throws(Errno) in try FileStatus.duplicate(descriptor) }
            return FileDriver(try .adopting(own, path: name, options))
        }
        let file = try HostFile.adopting(try unnamedFile(), path: "temporary file", options)
        try spool(descriptor, into: file)
        return FileDriver(file)
    }

    private static func unnamedFile() throws(BlockError) -> FileDescriptor {
        let folder = HostPath.temporaryFolder
        var code: Int32 = 0
        let descriptor = platter_open_unnamed(folder.hostPath, &code)
        guard descriptor >= 0 else {
            throw BlockError.system(Errno(rawValue: code), path: folder)
                .prefixed("Could not create a temporary file in '\(folder)'")
        }
        return FileDescriptor(rawValue: descriptor)
    }

    /// Copies the stream to `file`; zeroes become holes.
    private static func spool(_ stream: Int32, into file: HostFile) throws(BlockError) {
        let buffer = AlignedBuffer(count: bufferBytes)
        var offset = 0
        while true {
            let count = try fill(buffer, from: stream, at: offset)
            for start in stride(from: 0, to: count, by: blockBytes) {
                let block = buffer.bytes(start..<min(start + blockBytes, count))
                if !block.isZero { try file.write(block, at: offset + start) }
            }
            offset += count
            if count < buffer.count { break }
        }
        let length = offset
        try reporting(file.path) { () throws(Errno) in try FileStatus.setLength(file.descriptor, length) }
        file.noteLength(length)
    }

    /// Reads until `buffer` is full or the stream ends, and returns how many bytes were read.
    private static func fill(
        _ buffer: AlignedBuffer, from stream: Int32, at offset: Int
    ) throws(BlockError) -> Int {
        var done = 0
        while done < buffer.count {
            var rest = buffer.mutableBytes(done..<buffer.count)
            let got: Int
            do throws(Errno) { got = try PositionedIO.take(stream, into: &rest) } catch {
                throw .system(error, path: "standard input", offset: offset + done)
            }
            if got == 0 { break }
            done += got
        }
        return done
    }
}
