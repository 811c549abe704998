import BlockCore
import BlockProtocols
import Foundation

/// A folder of a test's own that disappears with it.
final class Scratch {
    let folder: String

    init() throws {
        folder = "/tmp/platter-protocols-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    func path(_ name: String) -> String { "\(folder)/\(name)" }

    /// Writes a file and answers its path.
    func file(_ name: String, _ bytes: [UInt8] = []) throws -> String {
        try Data(bytes).write(to: URL(fileURLWithPath: path(name)))
        return path(name)
    }

    /// All bytes of a file, read behind the driver's back.
    func contents(_ name: String) throws -> [UInt8] {
        [UInt8](try Data(contentsOf: URL(fileURLWithPath: path(name))))
    }
}

extension ProtocolDriver {
    func bytes(at offset: Int, _ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: count)
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        try read(into: &span, at: offset)
        return bytes
    }

    func put(_ bytes: [UInt8], at offset: Int) throws { try write(bytes.span.bytes, at: offset) }
}

extension FilterDriver {
    func bytes(at offset: Int, _ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: count)
        var elements = bytes.mutableSpan
        var span = elements.mutableBytes
        try read(into: &span, at: offset)
        return bytes
    }

    func put(_ bytes: [UInt8], at offset: Int) throws { try write(bytes.span.bytes, at: offset) }
}

/// A writable node over bytes in memory.
func memory(_ bytes: [UInt8] = []) -> BlockNode {
    BlockNode(.storage(MemoryDriver(bytes)), filename: "memory", settings: writing())
}

/// What `body` fails with; `nil` when it does not fail.
func failure(_ body: () throws -> Void) -> BlockError? {
    do { try body() } catch {
        return error as? BlockError ?? BlockError(.cancelled, "not a BlockError: \(error)")
    }
    return nil
}

/// Settings for writing.
func writing(_ cache: CacheMode = .writeback) -> OpenSettings { OpenSettings(readOnly: false, cache: cache) }

/// Create options of the `file` driver.
func fileOptions(_ values: [String: String]) throws -> CreateOptions {
    var options = CreateOptions(FileDriver.createOptions)
    for (name, value) in values { try options.set(name: name, to: value) }
    return options
}
