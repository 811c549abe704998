import BlockCore
import BlockFormats
import BlockTestSupport
import Synchronization
import Testing

@testable import BlockJobs

/// Images in a store, in a chain, with contents that vary with the seed.
struct LiveChain {
    let store = TestStore()
    let opener: ImageOpener
    let names: [String]
    private(set) var model: ReferenceDisk

    /// Several steps of the jobs, and no multiple of their granularity.
    static let size = (3 << 20) + 0x2A00

    init(layers: Int, clusterSize: String = "4096", seed: UInt64) throws {
        opener = ImageOpener(registry: store.registry([Qcow2Driver.self, RawDriver.self]), policy: .anyFile)
        names = (0..<layers).map { "layer\($0)" }
        model = ReferenceDisk(size: Self.size)
        var random = SeededRandom(seed: seed)
        for (index, name) in names.enumerated() {
            try make(name, over: index > 0 ? names[index - 1] : nil, clusterSize)
            let node = try open(name)
            for step in 0..<60 {
                let offset = random.number(in: 0..<Self.size / 512) * 512
                let count = min(Self.size - offset, 512 * (1 + random.number(in: 0..<40)))
                if step % 5 == 4 {
                    try node.writeZeroes(at: offset, count: count)
                    model.writeZeroes(offset..<offset + count)
                } else {
                    let bytes = Pattern.bytes(stamp: index * 100 + step, at: offset, count: count)
                    try node.write(bytes.span.bytes, at: offset)
                    model.write(bytes, at: offset)
                }
            }
            try node.close()
        }
    }

    func make(
        _ name: String, over backing: String? = nil, _ clusterSize: String = "4096", format: String = "qcow2"
    ) throws {
        var options = try opener.createOptions(format: format, filename: name)
        try options.set(.size, to: String(Self.size))
        if format == "qcow2" {
            try options.set(.clusterSize, to: clusterSize)
            try options.set(.backingFile, to: backing)
            if backing != nil { try options.set(.backingFormat, to: "qcow2") }
        }
        try opener.create(name, format: format, options: options)
    }

    func open(_ name: String, format: String = "qcow2", readOnly: Bool = false) throws(BlockError)
        -> BlockNode
    {
        try opener.open(name, format: format, settings: OpenSettings(readOnly: readOnly))
    }

    /// Checks an image from scratch: its contents, and that its tables are sound.
    func check(_ name: String, _ expected: ReferenceDisk, format: String = "qcow2") throws {
        let node = try open(name, format: format, readOnly: true)
        #expect(try node.readBytes(at: 0, count: Self.size) == expected.read(0..<Self.size))
        if let checkable = node.format?.asCheckable {
            let result = try checkable.check(repair: .none) { Issue.record("\($0)") }
            #expect(result.corruptions == 0 && result.leaks == 0)
        }
        try node.close()
    }
}

extension RunningJob {
    /// Waits until the job is ready or has ended.
    func waitUntilReady() {
        let seen = Monitor(false)
        control.observe { control in
            guard control.isReady || control.status == .concluded else { return }
            seen.withLock { $0 = true }
            seen.notifyAll()
        }
        if control.isReady || control.status == .concluded { return }
        seen.wait(until: { $0 }) { _ in }
    }
}
