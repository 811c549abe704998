import BlockCore
import BlockFormats
import BlockJobs
import BlockProtocols

// Streams the backing chain of the image named on the command line into it while a guest writes.
let registry = DriverRegistry(formats: StandardFormats.all, protocols: StandardProtocols.all)
let opener = ImageOpener(registry: registry, policy: .sameFolder)

do {
    let node = try opener.open(CommandLine.arguments[1], settings: OpenSettings(readOnly: false))
    let disk = BlockDevice(name: "disk0", root: node)
    let engine = JobEngine()
    let job = try engine.start(StreamJob(node: node), speed: 64 << 20)
    let bytes = [UInt8](repeating: 7, count: 4096)
    for step in 0..<16 { try disk.write(bytes.span.bytes, at: step << 16) }
    try job.wait()
    print("\(job.typeName): \(job.offset) of \(job.length) bytes, backing file: \(node.backing != nil)")
    try disk.close()
} catch {
    print("cannot stream: \(error)")
}
