import BlockCore
import BlockFormats
import BlockProtocols
import BlockTestSupport
import Foundation

/// The same image twice, in a folder each: one that Platter works on, one that QEMU's tools work on.
struct TwinImages {
    /// A part of a batch of requests.
    enum Request {
        case write(Range<Int>, UInt8)
        case zero(Range<Int>, mayUnmap: Bool)
        case discard(Range<Int>)
        case compress(Range<Int>, UInt8)

        /// In the words of qemu-io.
        var command: String {
            switch self {
            case .write(let range, let byte): "write -P \(byte) \(range.lowerBound) \(range.count)"
            case .zero(let range, let mayUnmap):
                "write -z\(mayUnmap ? " -u" : "") \(range.lowerBound) \(range.count)"
            case .discard(let range): "discard \(range.lowerBound) \(range.count)"
            case .compress(let range, let byte): "write -c -P \(byte) \(range.lowerBound) \(range.count)"
            }
        }
    }

    static let name = "disk.qcow2"

    let ours: CommandFixture
    let theirs: CommandFixture
    /// The images need a password.
    var isEncrypted = false

    private static let password = "hunter2"
    /// Makes that password known to a program.
    private static let secretObject = ["--object", "secret,id=s0,data=\(password)"]
    /// The image's name where the password goes with it.
    private static let options = "driver=qcow2,file.filename=\(name),encrypt.key-secret=s0"

    init() throws {
        ours = try CommandFixture()
        theirs = try CommandFixture()
    }

    /// The arguments of a command on the image, with the password where it needs one.
    func arguments(_ plain: [String]) -> [String] {
        guard isEncrypted, let command = plain.first else { return plain }
        var rest = Array(plain.dropFirst())
        if command == "create" { return [command] + Self.secretObject + rest }
        if let format = rest.firstIndex(of: "-f") { rest.removeSubrange(format..<format + 2) }
        rest = rest.map { $0 == Self.name ? Self.options : $0 }
        return [command] + Self.secretObject + ["--image-opts"] + rest
    }

    private static let tries = 200

    // MARK: Doing

    /// Runs a program, and again where it was only unlucky.
    static func run(
        _ fixture: CommandFixture, _ program: URL, _ arguments: [String]
    ) throws -> CommandOutcome {
        func attempt() throws -> CommandOutcome {
            try ProcessGate.afterStarts {
                try fixture.run(program, arguments)
            } isLocked: {
                $0.text.contains("Failed to get")
            }
        }
        var outcome = try attempt()
        // QEMU 7.2 cannot measure the time that few iterations take on a loaded machine, and fails.
        for _ in 0..<tries where outcome.text.contains("accurate CPU usage") { outcome = try attempt() }
        return outcome
    }

    static func peer(_ name: String) -> URL { URL(filePath: "/usr/bin/\(name)") }

    /// Runs a command by both programs; answers whether it succeeded.
    ///
    /// - Throws: ``Mismatch`` when one refuses what the other does, or is ended by a signal.
    func command(_ arguments: [String]) throws -> Bool {
        let arguments = self.arguments(arguments)
        let our = try Self.run(ours, CommandFixture.platter, arguments)
        let their = try Self.run(theirs, Self.peer("qemu-img"), arguments)
        guard our.status < 128, (our.status == 0) == (their.status == 0) else {
            throw Mismatch("platter: \(our.status) \(our.text)\nqemu-img: \(their.status) \(their.text)")
        }
        return our.status == 0
    }

    /// Does the requests by our driver and by qemu-io.
    func perform(_ requests: [Request]) throws {
        let node = try open(ours)
        defer { try? node.close() }
        for request in requests { try Self.perform(request, on: node) }
        try node.close()
        // QEMU 7.2 may put a compressed cluster behind another one that was given up meanwhile; a new process
        // does not remember the place.
        var batch: [String] = []
        for request in requests {
            if case .compress = request { try flush(&batch) }
            batch += ["-c", request.command]
        }
        try flush(&batch)
    }

    private func flush(_ batch: inout [String]) throws {
        guard !batch.isEmpty else { return }
        let image =
            isEncrypted ? Self.secretObject + ["--image-opts", Self.options] : ["-f", "qcow2", Self.name]
        let outcome = try Self.run(theirs, Self.peer("qemu-io"), ["-d", "unmap"] + batch + image)
        guard outcome.status == 0, !outcome.text.contains("failed") else {
            throw Mismatch("qemu-io \(batch): \(outcome.text)")
        }
        batch = []
    }

    private static func perform(_ request: Request, on node: BlockNode) throws {
        switch request {
        case .write(let range, let byte):
            let bytes = [UInt8](repeating: byte, count: range.count)
            try node.write(bytes.span.bytes, at: range.lowerBound)
        case .zero(let range, let mayUnmap):
            try node.writeZeroes(at: range.lowerBound, count: range.count, flags: mayUnmap ? .mayUnmap : [])
        case .discard(let range): try node.discard(at: range.lowerBound, count: range.count)
        case .compress(let range, let byte):
            try ImageWriting.writeCompressed(
                [UInt8](repeating: byte, count: range.count), at: range.lowerBound, to: node)
        }
    }

    func open(_ fixture: CommandFixture, readOnly: Bool = false) throws -> BlockNode {
        let registry = DriverRegistry(formats: StandardFormats.all, protocols: StandardProtocols.all)
        let opener = ImageOpener(
            registry: registry, secrets: SecretSource(["s0": KeyMaterial(Self.password)]))
        var settings = OpenSettings(readOnly: readOnly)
        settings.discardUnmaps = true
        var options = OptionTree()
        if isEncrypted { options["encrypt.key-secret"] = "s0" }
        return try ProcessGate.opening {
            try opener.open(
                fixture.path(Self.name), format: "qcow2", settings: settings, options: options)
        }
    }

    // MARK: Judging

    private func bytes(_ fixture: CommandFixture, snapshot: String? = nil) throws -> [UInt8] {
        let node = try open(fixture, readOnly: true)
        defer { try? node.close() }
        if let snapshot {
            guard let driver = node.format as? any SnapshotCapable else { throw Mismatch("no snapshots") }
            try driver.selectSnapshot(id: nil, name: snapshot)
        }
        return try node.readBytes(at: 0, count: try node.length())
    }

    /// Both programs read the same from both images.
    func compare() throws {
        let wanted = try bytes(ours)
        let other = try bytes(theirs)
        guard wanted.count == other.count else {
            throw Mismatch("the sizes are \(wanted.count) and, of QEMU's image, \(other.count)")
        }
        guard wanted == other else {
            let difference = wanted.indices.first { wanted[$0] != other[$0] } ?? 0
            throw Mismatch(
                "we read the images differently from offset \(difference): "
                    + "\(wanted[difference]), of QEMU's \(other[difference])")
        }
        try theirs.write("want.raw", wanted)
        for fixture in [ours, theirs] {
            let want = theirs.path("want.raw")
            let images =
                isEncrypted ? ["driver=raw,file.filename=\(want)"] : ["-f", "raw", "-F", "qcow2", want]
            try expect(["compare"] + images + [Self.name], in: fixture)
        }
    }

    private func expect(_ command: [String], in fixture: CommandFixture) throws {
        let outcome = try Self.run(fixture, Self.peer("qemu-img"), arguments(command))
        guard outcome.status == 0 else {
            let whose = fixture === ours ? "Platter's" : "QEMU's"
            throw Mismatch("qemu-img \(command) of \(whose) image: \(outcome.text)")
        }
    }

    /// Both programs find the same in each image, and nothing in ours.
    func check() throws {
        for fixture in [ours, theirs] {
            let command = arguments(["check", "-f", "qcow2", Self.name])
            let our = try Self.run(fixture, CommandFixture.platter, command)
            let their = try Self.run(fixture, Self.peer("qemu-img"), command)
            guard our.status == their.status, fixture !== ours || our.status == 0 else {
                let whose = fixture === ours ? "Platter's" : "QEMU's"
                throw Mismatch("\(whose) image: platter check: \(our.text)\nqemu-img check: \(their.text)")
            }
        }
    }

    /// A snapshot holds the same in both images, and qemu-img reads it from ours.
    func compareSnapshot(_ name: String) throws {
        let wanted = try bytes(ours, snapshot: name)
        guard try bytes(theirs, snapshot: name) == wanted else {
            throw Mismatch("snapshot '\(name)' differs")
        }
        try expect(
            ["convert", "-f", "qcow2", "-O", "raw", "-l", name, Self.name, "snapshot.raw"], in: ours)
        // qemu-img takes the disk's size of today for the snapshot's.
        let read = try ours.read("snapshot.raw").prefix(wanted.count)
        guard read.elementsEqual(wanted.prefix(read.count)) else {
            throw Mismatch("qemu-img reads snapshot '\(name)' of Platter's image otherwise")
        }
    }

    /// Both images keep the same bitmaps, with the same bits.
    func compareBitmaps(withBits: Bool) throws {
        let told = try [ours, theirs].map { fixture throws -> [String] in
            let node = try open(fixture, readOnly: true)
            defer { try? node.close() }
            guard let driver = node.format as? any BitmapCapable else { throw Mismatch("no bitmaps") }
            return try driver.bitmaps().map { info throws -> String in
                let runs = info.isInconsistent || !withBits ? [] : try driver.bitmap(named: info.name).runs
                return "\(info) \(runs)"
            }
        }
        guard told[0].sorted() == told[1].sorted() else {
            throw Mismatch("the bitmaps are \(told[0]), of QEMU's image \(told[1])")
        }
    }

    /// What qemu-img tells of both images is the same, but for places and dates.
    func compareInfo() throws {
        let tellings = try [ours, theirs].map { fixture throws -> NSDictionary in
            let outcome = try Self.run(
                fixture, Self.peer("qemu-img"),
                arguments(["info", "--output=json", "-f", "qcow2", Self.name]))
            guard outcome.status == 0,
                var told = try JSONSerialization.jsonObject(with: Data(outcome.outputBytes)) as? [String: Any]
            else { throw Mismatch("qemu-img info: \(outcome.text)") }
            for key in ["actual-size", "full-backing-filename", "filename", "children"] { told[key] = nil }
            told["format-specific"] = Self.withoutKeys(told["format-specific"])
            told["snapshots"] = (told["snapshots"] as? [[String: Any]])?.map { snapshot in
                snapshot.filter { ["name", "id", "vm-state-size"].contains($0.key) }
            }
            return told as NSDictionary
        }
        guard tellings[0] == tellings[1] else {
            throw Mismatch("qemu-img tells of Platter's image \(tellings[0]), of its own \(tellings[1])")
        }
    }

    /// The details of the format but for what every encrypted image has of its own.
    private static func withoutKeys(_ details: Any?) -> Any? {
        guard var details = details as? [String: Any], var data = details["data"] as? [String: Any],
            var encryption = data["encrypt"] as? [String: Any]
        else { return details }
        for key in ["uuid", "slots", "master-key-iters"] { encryption[key] = nil }
        data["encrypt"] = encryption
        details["data"] = data
        return details
    }
}
