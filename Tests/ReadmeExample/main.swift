import BlockCore
import BlockFormats
import BlockProtocols

// Opens the image named on the command line, of whatever format, and shows the start of its first sector.
let registry = DriverRegistry(formats: StandardFormats.all, protocols: StandardProtocols.all)
let opener = ImageOpener(registry: registry, policy: .sameFolder)

do {
    let disk = try opener.open(CommandLine.arguments[1])
    defer { try? disk.close() }
    let sector = try disk.readBytes(at: 0, count: 512)
    print("\(disk.driverName), \(try disk.length()) bytes, \(disk.chain.count) layer(s)")
    print("sector 0: \(sector.prefix(8)) ...")
} catch {
    print("cannot read the image: \(error)")
}
