import BlockCore
import BlockFilters
import BlockFormats
import BlockTestSupport

/// Images in memory, and filters over them by their options.
struct FilterImages {
    let store = TestStore()
    let opener: ImageOpener

    init(policy: OpenPolicy = .anyFile) {
        opener = ImageOpener(
            registry: DriverRegistry(
                formats: StandardFormats.all, filters: StandardFilters.all, protocols: [store.entry]),
            policy: policy)
    }

    /// Makes a qcow2 image with clusters of 4 KiB.
    func create(_ name: String, size: Int, backing: String? = nil, format: String? = nil) throws {
        var options = try opener.createOptions(format: "qcow2", filename: name)
        try options.set(name: "size", to: String(size))
        try options.set(name: "cluster_size", to: "4096")
        try options.set(.backingFile, to: backing)
        if let format { try options.set(name: "backing_fmt", to: format) }
        try opener.create(name, format: "qcow2", options: options)
    }

    /// Makes a raw file.
    func raw(_ name: String, _ bytes: [UInt8]) { store[name] = SparseBytes(bytes) }

    func bytes(_ name: String) -> [UInt8] {
        store[name].map { $0.read(at: 0, count: $0.count) } ?? []
    }

    func open(
        _ options: String, readOnly: Bool = false, cache: CacheMode = .writeback
    ) throws -> BlockNode {
        try opener.open(
            options: try OptionTree.parse(options),
            settings: OpenSettings(readOnly: readOnly, cache: cache))
    }

    /// The message of the error of opening.
    func refusal(_ options: String, readOnly: Bool = false) -> String? {
        failure { try open(options, readOnly: readOnly).close() }?.message
    }
}

extension BlockNode {
    func put(_ bytes: [UInt8], at offset: Int) throws { try write(bytes.span.bytes, at: offset) }
}
