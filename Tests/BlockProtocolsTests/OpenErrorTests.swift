import BlockCore
import BlockProtocols
import Foundation
import Testing

@Suite struct OpenErrorTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    private func openError(_ path: String, _ options: String = "", _ settings: OpenSettings = writing())
        -> BlockError?
    {
        failure {
            var tree = try OptionTree.parse(options)
            _ = try FileDriver.entry.open(path, &tree, settings)
        }
    }

    @Test func missingFilesAndFoldersAreNamed() throws {
        let missing = openError("/nonexistent/x")
        #expect(missing?.message == "Could not open '/nonexistent/x': No such file or directory")
        #expect(missing?.kind == .notFound)
        #expect(missing?.errno == 2)
        #expect(missing?.path == "/nonexistent/x")
        #expect(openError(scratch.folder)?.message == "Could not open '\(scratch.folder)': Is a directory")
        let reading = openError(scratch.folder, "", OpenSettings(readOnly: true))
        #expect(reading?.message == "'file' driver requires '\(scratch.folder)' to be a regular file")
    }

    @Test func aNamedPipeIsRefusedAtOnce() throws {
        let path = scratch.path("pipe")
        #expect(mkfifo(path, 0o600) == 0)
        let error = openError(path, "", OpenSettings(readOnly: true))
        #expect(error?.message == "'file' driver requires '\(path)' to be a regular file")
    }

    @Test func creationErrorsAreNamed() throws {
        let missing = failure { try FileDriver.create("/nonexistent/x", fileOptions([:])) }
        #expect(missing?.message == "Could not create '/nonexistent/x': No such file or directory")
        let folder = failure { try FileDriver.create(scratch.folder, fileOptions([:])) }
        #expect(folder?.message == "Could not create '\(scratch.folder)': Is a directory")
        #expect(folder?.errno == 21)
    }

    @Test func sizesThatTheFileSystemCannotHoldAreRefused() throws {
        let path = scratch.path("huge")
        let error = failure { try FileDriver.create(path, fileOptions(["size": "8000P"])) }
        #expect(error?.kind == .noSpace || error?.errno == 22)
        #expect(error?.message.hasPrefix("Could not resize file: ") == true)
        #expect(!FileManager.default.fileExists(atPath: path))
    }

    @Test func openOptionsAreTakenOrRefused() throws {
        let path = try scratch.file("a", [1])
        #expect(openError(path, "aio=threads,locking=auto,cache.direct=off,cache.no-flush=on") == nil)
        #expect(openError(path, "aio=native")?.kind == .invalidArgument)
        #expect(openError(path, "aio=x")?.kind == .invalidArgument)
        #expect(openError(path, "locking=perhaps")?.kind == .invalidArgument)
        #expect(
            openError(path, "pr-manager=p")?.message == "No persistent reservation manager with id 'p'")
        var left = try OptionTree.parse("aio=threads,nonsense=p")
        _ = try FileDriver.entry.open(path, &left, OpenSettings())
        #expect(left.keys == ["nonsense"])
    }

    @Test func writingToAReadOnlyDescriptorFailsWithPathAndOffset() throws {
        let path = try scratch.file("a", [1])
        let error = failure { try FileDriver(opening: path).put([1], at: 77) }
        #expect(error?.kind == .io)
        #expect(error?.errno == 9)
        #expect(error?.offset == 77)
        #expect(error?.path == path)
    }

    @Test func offsetsThatOverflowAreRefused() throws {
        let driver = try FileDriver(opening: try scratch.file("a", [1]), settings: writing())
        #expect(failure { try driver.put([1, 2], at: Int.max) }?.kind == .noSpace)
        #expect(failure { try driver.put([1, 2], at: -1) }?.kind == .noSpace)
        #expect(failure { _ = try driver.bytes(at: Int.max, 2) }?.kind == .noSpace)
        #expect(failure { try driver.writeZeroes(at: Int.max, count: 2, flags: []) }?.kind == .noSpace)
    }

    @Test func createOptionsHaveTheirNamesAndEffects() throws {
        #expect(FileDriver.createOptions.map(\.key) == [.size, .nocow, .preallocation, .extentSizeHint])
        let path = scratch.path("a")
        let options = ["size": "64k", "nocow": "on", "extent_size_hint": "64k"]
        try FileDriver.create(path, fileOptions(options))
        #expect(try FileDriver(opening: path).length() == 65536)
        let tooLarge = failure { try FileDriver.create(path, fileOptions(["extent_size_hint": "8G"])) }
        #expect(tooLarge?.kind == .invalidArgument)
    }
}
