import BlockCore
import BlockFormats

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// A throw-away layer for writes, in a file that has no name once it is open.
enum TemporaryOverlay {
    /// Puts a layer over `base`, which it closes when that fails.
    static func open(
        over base: BlockNode, _ settings: OpenSettings, _ context: CommandContext
    ) throws(BlockError) -> BlockNode {
        let format = Qcow2Driver.name
        do throws(BlockError) {
            let path = try emptyFile()
            defer { HostFile.remove(path) }
            var options = try context.opener.createOptions(format: format, filename: path)
            try options.set(.size, to: String(try base.length()))
            try context.opener.create(path, format: format, options: options)
            var above = settings
            above.readOnly = false
            above.cache = .unsafe
            above.engine = .threads
            let overlay = try context.opener.open(path, format: format, settings: above)
            overlay.backing = base
            return overlay
        } catch {
            try? base.close()
            throw error
        }
    }

    private static func emptyFile() throws(BlockError) -> String {
        let folder = getenv("TMPDIR").map { String(rawCString: $0) } ?? "/var/tmp"
        var name = "\(folder)/platter-io.XXXXXX".hostPath
        let descriptor = mkstemp(&name)
        guard descriptor >= 0 else {
            throw BlockError(
                .io, "Could not make a temporary file in '\(folder)': \(HostErrors.text(errno))", errno: errno
            )
        }
        // The name belongs to us now; the image is made in its place.
        closeFile(descriptor)
        return String(raw: name.dropLast().map { UInt8(bitPattern: $0) })
    }
}

private func closeFile(_ descriptor: Int32) { _ = close(descriptor) }
