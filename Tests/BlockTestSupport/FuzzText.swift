import BlockCore
import BlockFilters
import BlockFormats

/// Targets whose bytes are text that a user or an image gives: names, options, rules, descriptors. Every file
/// is in memory.
extension FuzzTarget {
    static let texts: [FuzzTarget] = [
        text("options") { (opener, text) throws(BlockError) in
            try opener.open(options: try OptionTree.parse(text), settings: OpenSettings(readOnly: false))
        },
        text("json") { (opener, text) throws(BlockError) in
            try opener.open("json:" + text, settings: OpenSettings(readOnly: false))
        },
        // The bytes are a file of rules; the image is written through them.
        text("blkdebug-rules") { (opener, _) throws(BlockError) in
            try opener.open("blkdebug:text:disk", settings: OpenSettings(readOnly: false))
        },
        text("blkdebug-options") { (opener, text) throws(BlockError) in
            let options = "driver=qcow2,file.driver=blkdebug,file.image.filename=disk,"
            return try opener.open(
                options: try OptionTree.parse(options + text), settings: OpenSettings(readOnly: false))
        },
        // Over a format, so that nothing waits while it is opened; no request is made.
        FuzzTarget(
            name: "throttle-options", image: { SparseBytes($0) }, format: "raw",
            act: { bytes in
                let (opener, text) = opener(bytes, filters: StandardFilters.all)
                let options = "driver=throttle,file.driver=qcow2,file.file.filename=base,"
                guard let node = try? opener.open(options: try OptionTree.parse(options + text)) else {
                    return false
                }
                try? node.close()
                return true
            }),
        descriptors,
    ]

    /// The bytes are the text of a VMDK descriptor; the extent files that it may name are there.
    private static var descriptors: FuzzTarget {
        var target = FuzzTarget(
            name: "vmdk-descriptor", image: { SparseBytes(Array("# Disk DescriptorFile\n".utf8) + $0) },
            format: "vmdk")
        target.below = { _ in
            ["flat.vmdk": SparseBytes(count: 64 << 10), "base": Qcow2Bytes(clusterBits: 9).bytes]
        }
        return target
    }

    /// Opens what the bytes, as text, name; reads, writes and closes it.
    private static func text(
        _ name: String,
        _ open: @escaping @Sendable (ImageOpener, String) throws(BlockError) -> BlockNode
    ) -> FuzzTarget {
        FuzzTarget(
            name: name, image: { SparseBytes($0) }, format: "raw",
            act: { bytes in
                // A limit of one byte a second would be obeyed.
                let filters = StandardFilters.all.filter { $0.name != ThrottleDriver.name }
                let (opener, text) = opener(bytes, filters: filters)
                guard let node = try? open(opener, text) else { return false }
                _ = try? node.readBytes(at: 0, count: 4096)
                let bytes = [UInt8](repeating: 1, count: 1000)
                try? node.write(bytes.span.bytes, at: 100)
                try? node.writeZeroes(at: 512, count: 1024)
                try? node.flush()
                try? node.close()
                return true
            })
    }

    /// Images in memory, and the bytes as the file `text` and as text.
    private static func opener(
        _ bytes: [UInt8], filters: [any OpenableFilter.Type]
    ) -> (opener: ImageOpener, text: String) {
        var disk = Qcow2Bytes(clusterBits: 9, virtualSize: 64 << 10)
        disk.setBacking(Array("base".utf8))
        let store = TestStore([
            "disk": disk.bytes, "base": Qcow2Bytes(clusterBits: 9).bytes, "text": SparseBytes(bytes),
            "raw": SparseBytes(count: 8192),
        ])
        let registry = DriverRegistry(
            formats: StandardFormats.all, filters: filters, protocols: [store.entry])
        return (ImageOpener(registry: registry, policy: .anyFile), String(decoding: bytes, as: UTF8.self))
    }
}
