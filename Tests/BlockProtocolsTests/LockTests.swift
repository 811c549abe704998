import BlockCore
import BlockFormats
import BlockProtocols
import Foundation
import Testing

/// Locks between processes: the other side is QEMU.
@Suite(.enabled(if: QemuPeer.isThere)) struct QemuLockTests {
    let scratch: Scratch
    let path: String

    init() throws {
        scratch = try Scratch()
        path = scratch.path("d.qcow2")
        #expect(try QemuPeer.run("qemu-img", ["create", "-q", "-f", "qcow2", path, "1M"]).status == 0)
    }

    private var hint: String { "Is another process using the image [\(path)]?" }

    @Test func anImageThatQemuWritesIsRefused() throws {
        try QemuPeer.holding(path) {
            let reading = failure { _ = try FileDriver(opening: path) }
            #expect(reading?.kind == .busy)
            #expect(reading?.message == "Failed to get shared \"write\" lock")
            #expect(reading?.hint == hint)
            let writing = failure {
                _ = try FileDriver(opening: path, settings: OpenSettings(readOnly: false))
            }
            #expect(writing?.kind == .busy)
            #expect(writing?.message == "Failed to get \"write\" lock")
            #expect(writing?.hint == hint)
            let shared = try FileDriver(opening: path, settings: OpenSettings(forceShare: true))
            #expect(try shared.bytes(at: 0, 4) == [0x51, 0x46, 0x49, 0xFB])
        }
    }

    @Test func anImageInUseIsNotEmptied() throws {
        let before = try scratch.contents("d.qcow2")
        for options in [[], ["-r"]] {
            try QemuPeer.holding(path, options) {
                let error = failure { try FileDriver.create(path, fileOptions(["size": "1M"])) }
                #expect(error?.message == "Failed to get \"write\" lock")
                #expect(error?.hint == hint)
            }
        }
        #expect(try scratch.contents("d.qcow2") == before)
    }

    @Test func readersGetAlongAndKeepWritersOut() throws {
        try QemuPeer.holding(path, ["-r"]) {
            let reader = try FileDriver(opening: path)
            #expect(failure { try reader.reopen(readOnly: false) }?.message == "Failed to get \"write\" lock")
            // What failed must have left the reader's own locks as they were.
            #expect(try QemuPeer.run("qemu-img", ["info", path]).status == 0)
            #expect(try QemuPeer.run("qemu-io", ["-c", "read 0 512", path]).status == 1)
            reader.close()
        }
        let reader = try FileDriver(opening: path)
        #expect(try QemuPeer.run("qemu-io", ["-r", "-c", "read 0 512", path]).status == 0)
        let refused = try QemuPeer.run("qemu-io", ["-c", "write 0 512", path])
        #expect(refused.status == 1)
        #expect(refused.text.contains("Failed to get \"write\" lock\n\(hint)"))
        reader.close()
        #expect(try QemuPeer.run("qemu-io", ["-c", "write 0 512", path]).status == 0)
    }

    @Test func qemuRefusesWhatWeWrite() throws {
        let writer = try FileDriver(opening: path, settings: writing())
        let info = try QemuPeer.run("qemu-img", ["info", path])
        #expect(info.status == 1)
        #expect(info.text.contains("Failed to get shared \"write\" lock\n\(hint)"))
        #expect(try QemuPeer.run("qemu-img", ["info", "-U", path]).status == 0)
        #expect(try QemuPeer.run("qemu-io", ["-c", "write 0 512", path]).status == 1)
        try writer.reopen(readOnly: true)
        #expect(try QemuPeer.run("qemu-img", ["info", path]).status == 0)
        try writer.reopen(readOnly: false)
        #expect(try QemuPeer.run("qemu-img", ["info", path]).status == 1)
        writer.close()
        #expect(try QemuPeer.run("qemu-img", ["info", path]).status == 0)
    }

    @Test func lockingCanBeTurnedOff() throws {
        try QemuPeer.holding(path) {
            var options = try OptionTree.parse("locking=off")
            _ = try FileDriver.entry.open(path, &options, OpenSettings(readOnly: true))
            var required = try OptionTree.parse("locking=on")
            let error = failure {
                _ = try FileDriver.entry.open(path, &required, OpenSettings(readOnly: true))
            }
            #expect(error?.kind == .busy)
        }
    }

    /// QEMU lets raw images be read while they are written, as they have no structure that could be torn.
    @Test func aRawReaderToleratesAWriterUnlessItCopies() throws {
        let raw = try scratch.file("d.raw", [UInt8](repeating: 5, count: 65536))
        let registry = DriverRegistry(formats: [RawDriver.self], protocols: StandardProtocols.all)
        let opener = ImageOpener(registry: registry)
        try QemuPeer.holding(raw, ["-f", "raw"]) {
            let node = try opener.open(raw)
            #expect(try node.readBytes(at: 0, count: 3) == [5, 5, 5])
            try node.close()
            var copying = OpenSettings()
            copying.excludesWriters = true
            let refused = failure { _ = try opener.open(raw, settings: copying) }
            #expect(refused?.message == "Failed to get shared \"write\" lock")
            copying.forceShare = true
            try opener.open(raw, settings: copying).close()
        }
        let writer = try opener.open(raw, format: "raw", settings: writing())
        #expect(try QemuPeer.run("qemu-img", ["info", "-f", "raw", raw]).status == 0)
        #expect(try QemuPeer.run("qemu-io", ["-f", "raw", "-c", "write 0 512", raw]).status == 1)
        try writer.close()
    }
}

/// Locks inside one process: two opens of one file are two parties.
@Suite struct OwnLockTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    @Test func twoReadersOrOneWriter() throws {
        let path = try scratch.file("a", [1, 2, 3])
        let first = try FileDriver(opening: path)
        let second = try FileDriver(opening: path)
        #expect(first.identity == second.identity)
        #expect(failure { _ = try FileDriver(opening: path, settings: writing()) }?.kind == .busy)
        second.close()
        try first.reopen(readOnly: false)
        #expect(
            failure { _ = try FileDriver(opening: path) }?.message == "Failed to get shared \"write\" lock")
        try first.put([9], at: 0)
        try first.reopen(readOnly: true)
        #expect(try FileDriver(opening: path).bytes(at: 0, 3) == [9, 2, 3])
        #expect(failure { try first.put([1], at: 0) }?.errno == 9)
    }

    /// Locks as others hold them: exclusive ones, which QEMU never takes. What was taken is given back.
    @Test(.enabled(if: ForeignLock.isThere)) func anExclusiveLockOfOthersIsBusy() throws {
        let path = try scratch.file("a", [1, 2, 3])
        let all = try #require(ForeignLock(path, 100, 201))
        for settings in [OpenSettings(), OpenSettings(forceShare: true), writing()] {
            let error = failure { _ = try FileDriver(opening: path, settings: settings) }
            #expect(error?.kind == .busy)
            #expect(error?.hint == "Is another process using the image [\(path)]?")
        }
        #expect(failure { try FileDriver.create(path, fileOptions(["size": "1M"])) }?.kind == .busy)
        all.release()
        let reader = try FileDriver(opening: path)
        let one = try #require(ForeignLock(path, 103, 1))
        let error = failure { try reader.reopen(readOnly: false) }
        #expect(error?.message == "Failed to get \"resize\" lock")
        #expect(ForeignLock.isFree(path, 101))
        #expect(!ForeignLock.isFree(path, 201))
        one.release()
        try reader.reopen(readOnly: false)
        #expect(!ForeignLock.isFree(path, 101))
        try reader.put([9], at: 0)
        #expect(try scratch.contents("a") == [9, 2, 3])
    }

    /// A raw file whose length stays is locked as qemu-img locks convert -n's target: others may write.
    @Test(.enabled(if: ForeignLock.isThere)) func aWriterThatKeepsTheLengthLetsOthersWrite() throws {
        let path = try scratch.file("a", [UInt8](repeating: 1, count: 512))
        var settings = writing()
        settings.keepsLength = true
        let opener = ImageOpener(
            registry: DriverRegistry(formats: [RawDriver.self], protocols: StandardProtocols.all))
        let node = try opener.open(path, format: "raw", settings: settings)
        let held = (100..<204).filter { !ForeignLock.isFree(path, $0) }
        #expect(held == [100, 101])
        let other = try opener.open(path, format: "raw", settings: settings)
        try other.close()
        #expect(failure { _ = try opener.open(path, format: "raw", settings: writing()) }?.kind == .busy)
        try node.close()
        // Where nobody may write beside it, all is locked.
        settings.excludesWriters = true
        let alone = try opener.open(path, format: "raw", settings: settings)
        #expect((100..<204).filter { !ForeignLock.isFree(path, $0) } == [100, 101, 103, 201, 203])
        try alone.close()
    }

    @Test func reopeningNoticesThatTheNameIsAnotherFileNow() throws {
        let path = try scratch.file("a", [1])
        let driver = try FileDriver(opening: path)
        try FileManager.default.removeItem(atPath: path)
        _ = try scratch.file("a", [2])
        #expect(failure { try driver.reopen(readOnly: false) }?.kind == .io)
        #expect(try driver.bytes(at: 0, 1) == [1])
    }

    @Test func forceShareIsForReadersOnly() throws {
        let path = try scratch.file("a", [1])
        let settings = OpenSettings(readOnly: false, forceShare: true)
        let error = failure {
            var none = OptionTree()
            _ = try FileDriver.entry.open(path, &none, settings)
        }
        #expect(error?.message == "force-share=on can only be used with read-only images")
    }
}

/// An exclusive lock on bytes of a file, held through an open file of its own.
private final class ForeignLock {
    /// Linux's `F_OFD_GETLK` and `F_OFD_SETLK`, which Swift does not import.
    private static let (get, set): (Int32, Int32) = (36, 37)
    #if os(Linux)
        static let isThere = true
    #else
        static let isThere = false
    #endif
    private let file: FileHandle

    init?(_ path: String, _ start: Int, _ count: Int) {
        guard let file = FileHandle(forUpdatingAtPath: path) else { return nil }
        self.file = file
        var lock = Self.bytes(start, count)
        if fcntl(file.fileDescriptor, Self.set, &lock) != 0 { return nil }
    }

    func release() { try? file.close() }

    /// Whether nobody holds a lock on the byte.
    static func isFree(_ path: String, _ byte: Int) -> Bool {
        guard let file = FileHandle(forUpdatingAtPath: path) else { return false }
        defer { try? file.close() }
        var lock = bytes(byte, 1)
        return fcntl(file.fileDescriptor, get, &lock) == 0 && lock.l_type == Int16(F_UNLCK)
    }

    private static func bytes(_ start: Int, _ count: Int) -> flock {
        var lock = flock()
        lock.l_type = Int16(F_WRLCK)
        lock.l_start = off_t(start)
        lock.l_len = off_t(count)
        return lock
    }
}
