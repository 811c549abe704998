import BlockCore
import BlockFormats
import BlockTestSupport
import Synchronization
import Testing

@testable import BlockJobs

@Suite("Jobs while a guest writes", .timeLimit(.minutes(5))) struct LiveJobTests {
    private static let clusters = ["512", "4096", "65536"]

    @Test(arguments: 0..<6)
    func stream(_ seed: Int) throws {
        let chain = try LiveChain(layers: 3, clusterSize: Self.clusters[seed % 3], seed: UInt64(seed))
        let device = BlockDevice(name: "disk0", root: try chain.open("layer2"))
        let node = try #require(device.root)
        let base = seed % 2 == 0 ? nil : node.chain.last
        let guest = LiveGuest(device, model: chain.model)
        guest.start(seed: UInt64(seed))
        defer { _ = guest.finish() }
        let job = try JobEngine().start(StreamJob(node: node, base: base), isPaused: true)
        guest.waitForRounds(5)
        try job.resume()
        try job.wait()
        guest.waitForRounds(10)
        #expect(guest.finish().isEmpty)
        #expect(node.backing === base)
        try device.close()
        try chain.check("layer2", guest.contents)
        let again = try chain.open("layer2")
        #expect(again.format?.backing?.filename == (base == nil ? nil : "layer0"))
        try again.close()
        #expect(chain.store.openDisks == 0)
    }

    /// The middle layer takes in what is below it while the guest writes to the top.
    @Test(arguments: 0..<3)
    func streamInTheMiddle(_ seed: Int) throws {
        let chain = try LiveChain(layers: 4, seed: UInt64(seed))
        let device = BlockDevice(name: "disk0", root: try chain.open("layer3"))
        let middle = try #require(device.root?.chain[1])
        let guest = LiveGuest(device, model: chain.model)
        guest.start(seed: UInt64(seed))
        defer { _ = guest.finish() }
        let job = try JobEngine().start(StreamJob(node: middle), isPaused: true)
        guest.waitForRounds(5)
        try job.resume()
        try job.wait()
        guest.waitForRounds(10)
        #expect(guest.finish().isEmpty)
        #expect(middle.backing == nil && middle.isReadOnly)
        try device.close()
        try chain.check("layer3", guest.contents)
        #expect(chain.store.openDisks == 0)
    }

    /// A write that comes between the job's reading and its writing stays.
    @Test func aWriteDuringTheCopyIsNotOverwritten() throws {
        let chain = try LiveChain(layers: 1, seed: 1)
        try chain.make("top", over: "layer0")
        let node = try chain.open("top")
        // Data of the first layer, so that the job copies it.
        let offset = try #require(
            (0..<LiveChain.size / 65536).map { $0 * 65536 }.first { offset in
                (try? node.status(at: offset, limit: 65536))?.isData == true
            })
        let bytes = [UInt8](repeating: 0x5A, count: 4096)
        let writes = CopyWork(
            read: { (buffer, position) throws(BlockError) in
                try node.read(into: &buffer, at: position)
                // The old bytes are read; now the guest comes.
                if position == offset { try node.write(bytes.span.bytes, at: offset) }
            },
            scanner: ZeroScanner(granularity: 4096, sparseBytes: 4096),
            writer: PieceWriter(node: node, zeroing: .marked), vacant: node)
        let chunk = Chunk(
            runs: [Run(range: offset..<offset + 65536, action: .copy)], coveredBytes: 65536, copyBytes: 65536)
        let space = Workspace(dataBytes: 65536, scratchBytes: 0)
        try writes.prepare(chunk, space)
        try writes.commit(chunk, space)
        var expected = chain.model
        expected.write(bytes, at: offset)
        #expect(try node.readBytes(at: 0, count: LiveChain.size) == expected.read(0..<LiveChain.size))
        try node.close()
    }

    @Test(arguments: 0..<8)
    func mirror(_ seed: Int) throws {
        let chain = try LiveChain(layers: 2, clusterSize: Self.clusters[seed % 3], seed: UInt64(seed))
        let format = seed % 4 == 3 ? "raw" : "qcow2"
        try chain.make("copy", Self.clusters[(seed + 1) % 3], format: format)
        let device = BlockDevice(name: "disk0", root: try chain.open("layer1"))
        let source = try #require(device.root)
        let target = try chain.open("copy", format: format)
        let guest = LiveGuest(device, model: chain.model)
        guest.start(seed: UInt64(seed))
        defer { _ = guest.finish() }
        let job = try JobEngine().start(
            MirrorJob(
                source: source, target: target, copyMode: seed % 2 == 0 ? .background : .writeBlocking,
                granularity: 4096, device: device))
        job.waitUntilReady()
        guest.waitForRounds(20)
        try job.complete()
        try job.wait()
        #expect(device.root === target)
        guest.waitForRounds(20)
        #expect(guest.finish().isEmpty)
        try device.close()
        try chain.check("copy", guest.contents, format: format)
        #expect(chain.store.openDisks == 0)
    }

    /// What only the top layer stores goes to a target with the same backing file.
    @Test func mirrorOfTheTopLayer() throws {
        let chain = try LiveChain(layers: 2, seed: 4)
        try chain.make("copy", over: "layer0")
        let device = BlockDevice(name: "disk0", root: try chain.open("layer1"))
        let target = try chain.open("copy")
        let guest = LiveGuest(device, model: chain.model)
        guest.start(seed: 4)
        defer { _ = guest.finish() }
        let job = try JobEngine().start(
            MirrorJob(source: try #require(device.root), target: target, sync: .top, device: device))
        job.waitUntilReady()
        try job.complete()
        try job.wait()
        #expect(guest.finish().isEmpty)
        try device.close()
        try chain.check("copy", guest.contents)
    }

    /// The target gets its backing file only afterwards: zeroes of the top stay over it.
    @Test func zeroesOfTheTopLayerAreMarked() throws {
        let chain = try LiveChain(layers: 2, seed: 10)
        try chain.make("copy")
        let source = try chain.open("layer1")
        let target = try chain.open("copy")
        let job = try JobEngine().start(MirrorJob(source: source, target: target, sync: .top))
        job.waitUntilReady()
        try job.complete()
        try job.wait()
        try target.unfiltered.format?.asRebasable?.changeBacking(
            to: BackingReference(filename: "layer0", format: "qcow2"))
        try target.close()
        try source.close()
        try chain.check("copy", chain.model)
    }

    /// A stream changes no byte of the disk, so bitmaps do not hear of it; they hear of the guest.
    @Test func streamMarksNoBitmap() throws {
        let chain = try LiveChain(layers: 2, seed: 11)
        let node = try chain.open("layer1")
        let bitmap = try node.addBitmap(named: "b", granularity: 4096)
        try JobEngine().start(StreamJob(node: node)).wait()
        #expect(node.backing == nil && bitmap.bits.dirtyCount == 0)
        let byte: [UInt8] = [1]
        try node.write(byte.span.bytes, at: 8192)
        #expect(bitmap.bits.dirtyCount == 1)
        try node.close()
        var expected = chain.model
        expected.write(byte, at: 8192)
        try chain.check("layer1", expected)
    }

    /// Without a device the guest stays with the source, and the target is the disk of one moment.
    @Test func aMirrorWithoutADevice() throws {
        let chain = try LiveChain(layers: 2, seed: 6)
        try chain.make("copy")
        let source = try chain.open("layer1")
        let target = try chain.open("copy")
        let job = try JobEngine().start(MirrorJob(source: source, target: target), speed: 64 << 20)
        job.waitUntilReady()
        #expect(blockError { () throws(BlockError) in try source.resize(to: 512) }?.kind == .busy)
        let bytes = [UInt8](repeating: 3, count: 70_000)
        try source.write(bytes.span.bytes, at: LiveChain.size - bytes.count)
        try job.complete()
        try job.wait()
        #expect(job.offset == job.length)
        try source.write(bytes.span.bytes, at: 0)
        try target.close()
        try source.close()
        var expected = chain.model
        expected.write(bytes, at: LiveChain.size - bytes.count)
        try chain.check("copy", expected)
    }

    /// What cannot be the target is refused before anything is written.
    @Test func targetsThatAreRefused() throws {
        let chain = try LiveChain(layers: 2, seed: 7)
        try chain.make("over", over: "layer1")
        let over = try chain.open("over")
        let source = try #require(over.backing)
        for target in [source, over] {
            let job = try JobEngine().start(MirrorJob(source: source, target: target))
            #expect([.invalidArgument, .readOnly].contains(job.result()?.kind))
        }
        try over.close()
    }

    /// A target that fails ends the job; the guest goes on with the source.
    @Test(arguments: [MirrorJob.CopyMode.background, .writeBlocking])
    func aFailingTarget(_ mode: MirrorJob.CopyMode) throws {
        let chain = try LiveChain(layers: 2, seed: 8)
        let copies = TestStore()
        let opener = ImageOpener(
            registry: copies.registry([Qcow2Driver.self, RawDriver.self]), policy: .anyFile)
        var options = try opener.createOptions(format: "qcow2", filename: "copy")
        try options.set(.size, to: String(LiveChain.size))
        try opener.create("copy", format: "qcow2", options: options)
        let target = try opener.open("copy", format: "qcow2", settings: OpenSettings(readOnly: false))
        let device = BlockDevice(name: "disk0", root: try chain.open("layer1"))
        let source = try #require(device.root)
        let guest = LiveGuest(device, model: chain.model)
        guest.start(seed: 8)
        defer { _ = guest.finish() }
        let job = try JobEngine().start(
            MirrorJob(source: source, target: target, copyMode: mode, device: device))
        job.waitUntilReady()
        copies.faults.arm(1, .deadFromThen)
        guest.waitForRounds(20)
        _ = blockError { () throws(BlockError) in try job.complete() }
        #expect(job.result()?.kind == .io)
        copies.faults.disarm()
        guest.waitForRounds(5)
        #expect(guest.finish().isEmpty && device.root === source)
        try? target.close()
        try device.close()
        try chain.check("layer1", guest.contents)
    }

    @Test func aCancelledMirrorLeavesTheSource() throws {
        let chain = try LiveChain(layers: 2, seed: 5)
        try chain.make("copy")
        let device = BlockDevice(name: "disk0", root: try chain.open("layer1"))
        let source = try #require(device.root)
        let target = try chain.open("copy")
        let guest = LiveGuest(device, model: chain.model)
        guest.start(seed: 5)
        defer { _ = guest.finish() }
        let job = try JobEngine().start(MirrorJob(source: source, target: target, device: device))
        job.waitUntilReady()
        #expect(job.cancelAndWait()?.kind == .cancelled)
        #expect(device.root === source && source.user == nil && target.user == nil)
        guest.waitForRounds(5)
        #expect(guest.finish().isEmpty)
        try target.close()
        try device.close()
        try chain.check("layer1", guest.contents)
    }

    @Test(arguments: 0..<6)
    func activeCommit(_ seed: Int) throws {
        let chain = try LiveChain(layers: 3, clusterSize: Self.clusters[seed % 3], seed: UInt64(seed))
        let device = BlockDevice(name: "disk0", root: try chain.open("layer2"))
        let top = try #require(device.root)
        let base = seed % 2 == 0 ? try #require(top.chain.last) : try #require(top.backing)
        let guest = LiveGuest(device, model: chain.model)
        guest.start(seed: UInt64(seed))
        defer { _ = guest.finish() }
        let job = try JobEngine().start(ActiveCommitJob(top: top, base: base, device: device))
        job.waitUntilReady()
        guest.waitForRounds(20)
        try job.complete()
        try job.wait()
        #expect(device.root === base && !base.isReadOnly)
        guest.waitForRounds(20)
        #expect(guest.finish().isEmpty)
        try device.close()
        try chain.check(seed % 2 == 0 ? "layer0" : "layer1", guest.contents)
        #expect(chain.store.openDisks == 0)
    }

    /// A layer in the middle goes into its base while the guest writes to the top.
    @Test(arguments: 0..<4)
    func commitInTheMiddle(_ seed: Int) throws {
        let chain = try LiveChain(layers: 4, seed: UInt64(seed))
        let device = BlockDevice(name: "disk0", root: try chain.open("layer3"))
        let layers = try #require(device.root).chain
        let guest = LiveGuest(device, model: chain.model)
        guest.start(seed: UInt64(seed))
        defer { _ = guest.finish() }
        // With one layer in between, or with both.
        let (overlay, top) = seed % 2 == 0 ? (layers[0], layers[1]) : (layers[1], layers[2])
        let job = CommitJob(top: top, base: layers[3], emptiesTop: false, overlay: overlay)
        guest.waitForRounds(5)
        try JobEngine().start(job).wait()
        #expect(overlay.backing === layers[3])
        guest.waitForRounds(10)
        #expect(guest.finish().isEmpty)
        try device.close()
        try chain.check("layer3", guest.contents)
        #expect(chain.store.openDisks == 0)
    }

    /// Closing the device under a job ends the job, and nothing is lost.
    @Test(arguments: ["stream", "mirror", "commit"])
    func closingUnderAJob(_ kind: String) throws {
        let chain = try LiveChain(layers: 3, seed: 9)
        try chain.make("copy")
        let device = BlockDevice(name: "disk0", root: try chain.open("layer2"))
        let node = try #require(device.root)
        let copy = try chain.open("copy")
        let jobs: [String: any BlockJob] = [
            "stream": StreamJob(node: node), "mirror": MirrorJob(source: node, target: copy, device: device),
            "commit": ActiveCommitJob(top: node, device: device),
        ]
        let ends = Mutex(0)
        let running = try JobEngine().start(
            try #require(jobs[kind]), isPaused: true, completion: { _, _ in ends.withLock { $0 += 1 } })
        let bytes = [UInt8](repeating: 1, count: 4096)
        try device.write(bytes.span.bytes, at: 8192)
        try device.close()
        #expect(running.hasEnded)
        #expect(ends.withLock { $0 } == 1)
        try copy.close()
        var expected = chain.model
        expected.write(bytes, at: 8192)
        try chain.check("layer2", expected)
        #expect(chain.store.openDisks == 0)
    }
}
