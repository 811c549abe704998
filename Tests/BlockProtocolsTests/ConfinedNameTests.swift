import BlockCore
import BlockFormats
import BlockProtocols
import Foundation
import Testing

/// Names in images lead to regular files in the image's folder, whatever the folder holds.
@Suite struct ConfinedNameTests {
    private let root: String
    private let opener = ImageOpener(
        registry: DriverRegistry(formats: StandardFormats.all, protocols: StandardProtocols.all),
        policy: .standard)

    init() throws {
        root = FileManager.default.temporaryDirectory.path + "/confined-\(UUID().uuidString)"
        for folder in ["in/sub", "out"] {
            try FileManager.default.createDirectory(
                atPath: "\(root)/\(folder)", withIntermediateDirectories: true)
        }
        for file in ["in/base", "in/sub/base", "out/secret"] { try fill(file) }
    }

    private func fill(_ name: String) throws {
        try Data(repeating: UInt8(ascii: "x"), count: 1 << 20)
            .write(to: URL(fileURLWithPath: "\(root)/\(name)"))
    }

    private func link(_ name: String, to target: String) throws {
        try FileManager.default.createSymbolicLink(atPath: "\(root)/\(name)", withDestinationPath: target)
    }

    /// Opens an overlay in `in` over a file of that name.
    private func open(_ backing: String, _ opener: ImageOpener? = nil) throws(BlockError) -> BlockNode {
        let opener = opener ?? self.opener
        let image = "\(root)/in/image-\(UUID().uuidString)"
        let maker = ImageOpener(registry: opener.registry)
        var options = try maker.createOptions(format: "qcow2", filename: image)
        try options.set(.size, to: "1048576")
        try options.set(.backingFile, to: backing)
        try options.set(.backingFormat, to: "raw")
        try maker.create(image, format: "qcow2", options: options)
        return try opener.open(image, format: "qcow2")
    }

    private func failure(_ backing: String, _ opener: ImageOpener? = nil) -> BlockError? {
        do throws(BlockError) {
            try open(backing, opener).close()
            return nil
        } catch { return error }
    }

    @Test func filesInTheFolderOpen() throws {
        try link("in/link", to: "base")
        try link("in/deep", to: "sub")
        try link("in/absolute", to: "\(root)/in/base")
        try link("in/around", to: "../in/sub/../base")
        try link("out/back", to: "../in")
        for name in [
            "base", "./base", "sub/base", "sub/../base", "link", "deep/base", "absolute", "around",
            "\(root)/in/base", "\(root)/in/sub/../base", "\(root)/out/back/base",
        ] {
            let node = try open(name)
            #expect(try node.readBytes(at: 4096, count: 1) == [UInt8(ascii: "x")], "\(name)")
            try node.close()
        }
    }

    @Test func whatLiesElsewhereDoesNot() throws {
        try link("in/up", to: "../out/secret")
        try link("in/far", to: "\(root)/out/secret")
        try link("in/folder", to: "../out")
        try link("in/fd", to: "/proc/self/fd")
        try link("in/root", to: "/")
        try link("in/null", to: "/dev/null")
        try link("in/nothing", to: "../out/missing")
        for name in [
            "../out/secret", "sub/../../out/secret", "up", "far", "folder/secret", "fd/0", "null",
            "/dev/null",
            "/dev/zero", "/etc/passwd", "root/etc/passwd", "root\(root)/out/secret", "\(root)/out/secret",
            "\(root)/in/../out/secret", "/proc/self/exe", "nothing", "../out/missing", "file:base", "nbd:x",
            #"json:{"file.filename":"base"}"#,
        ] {
            #expect(failure(name)?.kind == .denied, "\(name): \(String(describing: failure(name)))")
        }
        let hint = try #require(failure("up")?.hint)
        #expect(hint.contains("--open-policy=any") && hint.contains("PLATTER_OPEN_POLICY"))
        #expect(failure("missing")?.kind == .notFound)
    }

    /// A FIFO is neither opened nor waited for.
    @Test(.timeLimit(.minutes(1))) func onlyRegularFilesOpen() throws {
        #expect(mkfifo("\(root)/in/fifo", 0o600) == 0)
        for name in ["fifo", "\(root)/in/fifo"] {
            let error = try #require(failure(name))
            #expect(error.kind == .denied && error.message.contains("no regular file"), "\(error)")
        }
        #expect(failure("sub") != nil)
    }

    @Test func filesThatTheUserNamesOpen() throws {
        let opener = ImageOpener(registry: opener.registry, policy: .standard)
        opener.policy.allow("\(root)/in/../out/secret")
        try open("../out/secret", opener).close()
        try open("\(root)/out/secret", opener).close()
        #expect(failure("/etc/passwd", opener)?.kind == .denied)
        let strict = ImageOpener(registry: opener.registry, policy: .nothing)
        #expect(failure("base", strict)?.kind == .denied)
        strict.policy.allow("\(root)/in/base")
        try open("base", strict).close()
        #expect(failure("sub/base", strict)?.kind == .denied)
    }

    @Test func anImageBehindALinkHasBothFolders() throws {
        let node = try open("base")
        let image = node.filename
        try node.close()
        try link("out/image", to: image)
        #expect(throws: BlockError.self) { try opener.open("\(root)/out/image", format: "qcow2") }
        try link("out/base", to: "../in/base")
        try opener.open("\(root)/out/image", format: "qcow2").close()
    }

    /// Links and folders change places all the time; what is read never comes from outside.
    @Test(.timeLimit(.minutes(1))) func swappedLinksOpenNothingElse() throws {
        try Data(repeating: UInt8(ascii: "S"), count: 1 << 20).write(
            to: URL(fileURLWithPath: "\(root)/out/base"))
        try link("in/inside", to: "sub")
        try link("in/outside", to: "../out")
        try link("in/here", to: "sub")
        let node = try open("base")
        let image = node.filename
        try node.close()
        try Data("x".utf8).write(to: URL(fileURLWithPath: "\(root)/in/stop"))
        let root = root
        let swapper = Thread {
            while FileManager.default.fileExists(atPath: "\(root)/in/stop") {
                for target in ["../out", "sub"] {
                    unlink("\(root)/in/next")
                    symlink(target, "\(root)/in/next")
                    rename("\(root)/in/next", "\(root)/in/here")
                }
            }
        }
        swapper.start()
        defer { unlink("\(root)/in/stop") }
        _ = image
        var opened = 0
        for _ in 0..<150 {
            do throws(BlockError) {
                let node = try open("here/base")
                opened += 1
                let byte = try node.readBytes(at: 0, count: 1)
                try node.close()
                #expect(byte == [UInt8(ascii: "x")])
            } catch {
                // Busy: a program that another test starts holds our descriptors for a moment.
                #expect([.denied, .notFound, .busy].contains(error.kind), "\(error)")
            }
        }
        #expect(opened > 0)
    }

    /// Committing asks for leave to write, apart from reading.
    @Test func writingIsAskedApart() throws {
        let policy = OpenPolicy(deciding: { $0.isForWriting ? .denied : .beneathImage })
        let node = try open("base", ImageOpener(registry: opener.registry, policy: policy))
        let backing = try #require(node.backing)
        #expect(throws: BlockError.self) { try backing.reopen(readOnly: false) }
        #expect(backing.isReadOnly)
        try node.close()
        let free = try open("base")
        try free.backing?.reopen(readOnly: false)
        try free.close()
    }
}
