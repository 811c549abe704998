import BlockTestSupport
import Foundation
import Testing

/// Chains that the real qemu-img and qemu-io made, worked on by `platter`, judged by the real qemu-img.
@Suite(.serialized) struct ChainInteropTests {
    static let cases = ["convert", "stream", "commit", "rebase"].flatMap { job in (0..<10).map { (job, $0) } }

    @Test("qemu-img finds the same disk and nothing to complain of", arguments: cases)
    func chains(job: String, seed: Int) throws {
        var chain = try PeerChain(seed: seed * 7919 + job.count)
        switch job {
        case "convert": try chain.convert()
        case "stream": try chain.stream()
        case "commit": try chain.commit()
        default: try chain.rebase()
        }
    }
}

/// Some images over each other, made by qemu-img.
private struct PeerChain {
    struct Image {
        var name: String
        var format: String
    }

    let fixture: CommandFixture
    var random: SeededRandom
    private(set) var images: [Image] = []

    private var top: Image { images[images.count - 1] }

    init(seed: Int) throws {
        fixture = try CommandFixture()
        random = SeededRandom(seed: UInt64(seed))
        for index in 0..<random.number(in: 2..<5) {
            images.append(try make("l\(index)", over: images.last))
        }
        try must("qemu-img convert -f \(top.format) -O raw \(top.name) want.raw")
    }

    // MARK: Making

    private mutating func make(_ name: String, over backing: Image?) throws -> Image {
        let size = random.number(in: 1..<50) * 65536 + [0, 512, 4096][random.number(in: 0..<3)]
        let isRaw = backing == nil && random.number(in: 0..<3) == 0
        let image = Image(name: name, format: isRaw ? "raw" : "qcow2")
        let options = isRaw ? "" : "-o \(qcow2Options())"
        let below = backing.map { "-b \($0.name) -F \($0.format)" } ?? ""
        try must("qemu-img create -q -f \(image.format) \(options) \(below) \(name) \(size)")
        try fill(image, size)
        return image
    }

    private mutating func qcow2Options() -> String {
        var options = ["cluster_size=\([512, 4096, 65536, 1 << 20][random.number(in: 0..<4)])"]
        switch random.number(in: 0..<5) {
        case 0: options.append("compat=0.10")
        case 1: options.append("compression_type=zstd")
        case 2: options.append("lazy_refcounts=on")
        case 3: options.append("refcount_bits=64")
        default: break
        }
        return options.joined(separator: ",")
    }

    private mutating func fill(_ image: Image, _ size: Int) throws {
        var commands = ""
        for _ in 0..<random.number(in: 1..<10) {
            let offset = random.number(in: 0..<size / 512) * 512
            let count = min([512, 4096, 65536, 199_680, 1 << 20][random.number(in: 0..<5)], size - offset)
            let kinds = [
                "write -P \(random.number(in: 1..<256))", "write -z", "write -z -u", "discard", "write -P 0",
            ]
            commands += " -c '\(kinds[random.number(in: 0..<7) % 5]) \(offset) \(count)'"
        }
        try must("qemu-io -f \(image.format)\(commands) \(image.name)")
    }

    private func must(_ line: String) throws {
        let outcome = try fixture.shell(line)
        try #require(outcome.status == 0, "\(line): \(outcome.text)")
    }

    // MARK: Work

    mutating func convert() throws {
        let format = random.number(in: 0..<3) == 0 ? "raw" : "qcow2"
        var options = format == "qcow2" ? ["-o", qcow2Options()] : []
        if format == "qcow2", random.number(in: 0..<2) == 0 { options.append("-c") }
        if random.number(in: 0..<4) == 0 { options.append("-W") }
        if random.number(in: 0..<3) == 0 {
            options += ["-S", ["0", "512", "64k", "1M"][random.number(in: 0..<4)]]
        }
        let below = images[images.count - 2]
        if format == "qcow2", random.number(in: 0..<3) == 0 {
            options += ["-B", below.name, "-F", below.format]
        }
        try platter(["convert", "-f", top.format, "-O", format] + options + [top.name, "out"])
        try judge(Image(name: "out", format: format))
    }

    mutating func stream() throws {
        let index = random.number(in: 0..<images.count)
        let base = index < images.count - 1 ? images[index] : nil
        try platter(["stream", "-f", top.format] + (base.map { ["-b", $0.name] } ?? []) + [top.name])
        let info = try fixture.tool("qemu-img", "info", top.name).output
        if let base {
            #expect(info.contains("backing file: \(base.name)\n"))
        } else {
            #expect(!info.contains("backing file"))
        }
        try judge(top)
    }

    mutating func commit() throws {
        let index = random.number(in: 0..<images.count - 1)
        let base = images[index]
        try must("qemu-img convert -f \(base.format) -O raw \(base.name) before.raw")
        let deep = index == images.count - 2 ? [] : ["-b", base.name]
        try platter(["commit", "-f", top.format] + deep + [top.name])
        try judge(top)
        let want = try fixture.read("want.raw")
        try fixture.write("want.raw", want + (try fixture.read("before.raw")).dropFirst(want.count))
        try judge(base)
    }

    mutating func rebase() throws {
        var target: Image?
        switch random.number(in: 0..<3) {
        case 0: break
        case 1: target = images[random.number(in: 0..<images.count - 1)]
        default: target = try make("other", over: nil)
        }
        var options = target.map { ["-b", $0.name, "-B", $0.format] } ?? ["-b", ""]
        if random.number(in: 0..<2) == 0 { options.append("-c") }
        try platter(["rebase", "-f", top.format] + options + [top.name])
        try judge(top)
    }

    private func platter(_ arguments: [String]) throws {
        let outcome = try fixture.run(CommandFixture.platter, arguments)
        try #require(outcome.status == 0, "\(arguments): \(outcome.text)")
    }

    /// The image reads as `want.raw`, and its structure is sound without leaks.
    private func judge(_ image: Image) throws {
        let compared = try fixture.tool(
            "qemu-img", "compare", "-f", image.format, "-F", "raw", image.name, "want.raw")
        #expect(compared.status == 0, "\(image.name): \(compared.text)")
        guard image.format == "qcow2" else { return }
        let checked = try fixture.tool("qemu-img", "check", "-f", "qcow2", image.name)
        #expect(checked.status == 0, "\(image.name): \(checked.text)")
    }
}
