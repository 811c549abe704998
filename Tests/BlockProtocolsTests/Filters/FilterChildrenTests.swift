import BlockCore
import BlockFilters
import BlockTestSupport
import Testing

/// What the node does for a filter with several nodes below.
@Suite struct FilterChildrenTests {
    private let images = FilterImages()
    private let quorum =
        "driver=quorum,vote-threshold=1,children.0.driver=raw,children.0.file.filename=a,"
        + "children.1.driver=raw,children.1.file.filename=b"

    init() { for name in ["a", "b"] { images.raw(name, [UInt8](repeating: 1, count: 4096)) } }

    @Test func theChildrenAreListedByTheirRoles() throws {
        let node = try images.open(quorum)
        #expect(node.childRoles == ["children.0", "children.1"])
        #expect(node.children.map(\.filename) == ["a", "b"])
        #expect(node.fileIdentities.count == 2 && node.ownFileIdentities.count == 2)
        #expect(node.unfiltered === node && node.backing == nil && node.shownChild == nil)
        try node.close()
        #expect(images.store.openDisks == 0)
        let verify = try images.open("driver=blkverify,raw.filename=a,test.driver=raw,test.file.filename=b")
        #expect(verify.childRoles == ["raw", "test"])
        #expect(verify.unfiltered === verify.children[0] && verify.fileIdentities.count == 2)
        try verify.close()
    }

    private func modes(_ node: BlockNode) -> [Bool] { node.children.map(\.isReadOnly) }

    @Test func allAreReopenedOrNone() throws {
        let node = try images.open(quorum)
        try node.reopen(readOnly: true)
        #expect(modes(node) == [true, true])
        // The second file cannot become writable.
        images.store.faults.arm(2, .ioErrorOnce)
        #expect(failure { try node.reopen(readOnly: false) } != nil)
        images.store.faults.disarm()
        #expect(node.isReadOnly && modes(node) == [true, true])
        try node.reopen(readOnly: false)
        #expect(modes(node) == [false, false])
        try node.close()
    }

    @Test func allAreFlushedThoughOneFails() throws {
        let verify = try images.open("driver=blkverify,raw.filename=a,test.driver=raw,test.file.filename=b")
        try verify.put([1], at: 0)
        images.store.clearLog()
        images.store.faults.arm(1, .ioErrorOnce)
        #expect(failure { try verify.flush() }?.kind == .io)
        images.store.faults.disarm()
        let flushed = images.store.log.compactMap { event -> String? in
            if case .flush(let file) = event { file } else { nil }
        }
        #expect(flushed == ["b"])
        try verify.close()
    }

    @Test(arguments: [
        ("driver=blkverify,raw.filename=a", "A block device must be specified for \"test\""),
        ("driver=blkverify,test.file.filename=a", "A block device must be specified for \"raw\""),
        ("driver=blkverify,raw.filename=a,test.file.filename=no", "No such file or directory"),
        ("driver=blkverify,raw.filename=a,test=node", "Cannot find device='node' nor node-name='node'"),
        ("driver=blklogwrites,file.filename=a", "A block device must be specified for \"log\""),
        (
            "driver=quorum,vote-threshold=1,children.0.file.filename=a,children.1.driver=no,"
                + "children.1.file.filename=b", "Unknown driver"
        ),
    ]) func whatIsOpenIsClosedAfterARefusal(_ options: String, _ message: String) {
        let told = images.refusal(options)
        #expect(told?.contains(message) == true, "\(told ?? "none")")
        #expect(images.store.openDisks == 0)
    }

    /// Filters count as nested whatever child they are.
    @Test func nestingIsLimitedInEveryChild() throws {
        var options = OptionTree()
        var prefix = ""
        for _ in 0..<70 {
            options[prefix + "driver"] = "quorum"
            options[prefix + "vote-threshold"] = "1"
            prefix += "children.0."
        }
        options[prefix + "file.filename"] = "a"
        #expect(failure { _ = try images.opener.open(options: options) }?.kind == .limit)
        #expect(images.store.openDisks == 0)
    }

    /// An image cannot name a filter under the policy of its own folder, in whichever child its files are.
    @Test(arguments: [
        #"{"driver":"quorum","vote-threshold":1,"children":[{"driver":"file","filename":"a"}]}"#,
        #"{"driver":"blkverify","raw":{"driver":"file","filename":"a"},"test":{"driver":"raw","file":"#
            + #"{"driver":"file","filename":"b"}}}"#,
        #"{"driver":"blklogwrites","file":{"driver":"file","filename":"a"},"log":{"driver":"file","#
            + #""filename":"b"}}"#,
        #"{"driver":"raw","file":{"driver":"preallocate","file":{"driver":"file","filename":"a"}}}"#,
        #"{"driver":"copy-on-read","file":{"driver":"file","filename":"a"}}"#,
        #"{"driver":"compress","file":{"driver":"file","filename":"a"}}"#, "blkverify:a:b",
    ]) func anImageNamesNoFilter(_ name: String) throws {
        for (policy, kinds) in [
            (OpenPolicy.standard, [BlockError.Kind.denied]), (.nothing, [.denied]),
            // Whoever allows everything gets the filter, or its own refusal.
            (.anyFile, [nil, .readOnly, .unsupported]),
        ] as [(OpenPolicy, [BlockError.Kind?])] {
            let images = FilterImages(policy: policy)
            for file in ["a", "b"] { images.raw(file, [UInt8](repeating: 1, count: 4096)) }
            let isJSON = name.hasPrefix("{")
            try images.create("top", size: 4096, backing: (isJSON ? "json:" : "") + name, format: nil)
            let error = failure { try images.open("driver=qcow2,file.filename=top", readOnly: true).close() }
            #expect(kinds.contains(error?.kind), "\(String(describing: error))")
            #expect(images.store.openDisks == 0)
        }
    }

    /// Through the second child as through the first.
    @Test func aLoopIsFoundInEveryChild() throws {
        let own = #"{"driver":"qcow2","file":{"filename":"top"}}"#
        let raw = #"{"driver":"raw","file":{"filename":"a"}}"#
        for name in [
            #"{"driver":"quorum","vote-threshold":1,"children":[\#(raw),\#(own)]}"#,
            #"{"driver":"quorum","vote-threshold":1,"children":[\#(own),\#(raw)]}"#,
            #"{"driver":"blkverify","raw":{"filename":"a"},"test":\#(own)}"#,
        ] {
            let images = FilterImages()
            images.raw("a", [UInt8](repeating: 1, count: 4096))
            try images.create("top", size: 4096, backing: "json:" + name)
            let error = failure { try images.open("driver=qcow2,file.filename=top", readOnly: true).close() }
            #expect(error?.kind == .corrupt && error?.message.contains("infinite loop") == true)
            #expect(images.store.openDisks == 0)
        }
    }
}
