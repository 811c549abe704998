import BlockCore
import BlockFilters
import BlockProtocols
import Synchronization
import Testing

/// Rules and breakpoints of `blkdebug`.
@Suite struct DebugDriverTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    private let opener = ImageOpener(
        registry: DriverRegistry(
            formats: [], filters: StandardFilters.all, protocols: StandardProtocols.all))

    private func open(_ name: String?, _ tree: OptionTree, _ settings: OpenSettings) throws -> DebugDriver {
        var tree = tree
        tree["driver"] = "blkdebug"
        if let name { tree["filename"] = name }
        let node = try opener.open(options: tree, settings: settings)
        return try #require(node.filter as? DebugDriver)
    }

    /// Opens a file of eight sectors below rules, which are options or a file's text.
    private func open(
        _ options: String = "", config: String? = nil, path: String? = nil
    ) throws -> DebugDriver {
        let image = try scratch.file("image", [UInt8](repeating: 1, count: 4096))
        let tree = try OptionTree.parse(options)
        var name = image
        if let config {
            name = "blkdebug:\(try scratch.file("config", Array(config.utf8))):\(image)"
        }
        return try open(path ?? name, tree, writing())
    }

    private func refusal(_ options: String = "", config: String? = nil, path: String? = nil) -> String? {
        failure { _ = try open(options, config: config, path: path) }?.message
    }

    // MARK: Rules

    @Test func aRuleOfNoEventHoldsFromTheStart() throws {
        let driver = try open("inject-error.0.event=none,inject-error.0.errno=28")
        #expect(failure { try driver.put([1], at: 0) }?.errno == 28)
        #expect(failure { _ = try driver.bytes(at: 0, 1) }?.kind == .noSpace)
        #expect(failure { try driver.flush() }?.errno == 28)
        #expect(failure { try driver.discard(at: 0, count: 512) }?.errno == 28)
        #expect(failure { try driver.writeZeroes(at: 0, count: 512, flags: []) }?.errno == 28)
        // Which must be asked for.
        #expect(try driver.extent(at: 0, limit: 512).length == 512)
        #expect(try driver.length() == 4096)
    }

    @Test(arguments: ["read", "write", "write-zeroes", "discard", "flush", "block-status"])
    func aRuleOfAKindLeavesOthersAlone(_ kind: String) throws {
        let driver = try open("inject-error.0.event=none,inject-error.0.iotype=\(kind)")
        let calls: [(String, () throws -> Void)] = [
            ("read", { _ = try driver.bytes(at: 0, 1) }), ("write", { try driver.put([1], at: 0) }),
            ("write-zeroes", { try driver.writeZeroes(at: 0, count: 1, flags: []) }),
            ("discard", { try driver.discard(at: 0, count: 1) }), ("flush", { try driver.flush() }),
            ("block-status", { _ = try driver.extent(at: 0, limit: 1) }),
        ]
        for (name, call) in calls { #expect((failure(call)?.errno == 5) == (name == kind), "\(name)") }
    }

    @Test func aRuleOfASectorIsForRequestsThatTouchIt() throws {
        let driver = try open("inject-error.0.event=none,inject-error.0.sector=2,inject-error.0.once=on")
        try driver.put([UInt8](repeating: 2, count: 1024), at: 0)
        try driver.put([3], at: 1536)
        try driver.flush()
        #expect(failure { try driver.put([UInt8](repeating: 2, count: 2), at: 1023) }?.offset == 1023)
        try driver.put([4], at: 1024)
        #expect(try driver.bytes(at: 1023, 3) == [2, 4, 1])
    }

    @Test func anEventSwitchesItsRulesOn() throws {
        let driver = try open(
            "inject-error.0.event=l2_load,inject-error.0.errno=5,inject-error.1.event=l2_update,"
                + "inject-error.1.errno=28,inject-error.1.immediately=on")
        try driver.put([1], at: 0)
        driver.hear(.l2Load)
        #expect(failure { try driver.put([1], at: 0) }?.errno == 5)
        #expect(failure { try driver.put([1], at: 0) }?.errno == 5)
        driver.hear(.flushToDisk)
        #expect(failure { try driver.put([1], at: 0) }?.errno == 5)
        driver.hear(.l2Update)
        #expect(failure { try driver.put([1], at: 0) }?.errno == 28)
    }

    /// The second time that an L2 table is read, from a file as people have them for QEMU.
    @Test func statesComeFromAFileOfRules() throws {
        let driver = try open(
            config: """
                # Fails in state 2 only
                [inject-error]
                event = "l2_load"
                state = "2"
                errno = "28"
                immediately = "off"
                once = "on"

                [set-state]
                  event = "l2_load"
                state = "1"
                new_state = "2"

                """)
        driver.hear(.l2Load)
        try driver.put([1], at: 0)
        driver.hear(.l2Load)
        #expect(failure { try driver.put([1], at: 0) }?.errno == 28)
        try driver.put([1], at: 0)
        driver.hear(.l2Load)
        try driver.put([1], at: 0)
    }

    @Test func rulesOfFileAndOptionsGoTogether() throws {
        let config = try scratch.file(
            "rules", Array("[inject-error]\nevent = \"none\"\niotype = \"flush\"\n".utf8))
        let driver = try open("config=\(config),inject-error.event=none,inject-error.iotype=discard")
        #expect(failure { try driver.flush() } != nil)
        #expect(failure { try driver.discard(at: 0, count: 1) } != nil)
        try driver.put([1], at: 0)
    }

    /// With QEMU's words, which were compared side by side.
    @Test func whatIsNoRuleIsRefused() throws {
        let none = "inject-error.0.event=none,"
        #expect(refusal("inject-error.0.event=nosuch") == "invalid parameter value: nosuch")
        #expect(refusal(none + "inject-error.0.iotype=x") == "invalid parameter value: x")
        #expect(refusal(none + "inject-error.0.errno=x") == "Parameter 'errno' expects a number")
        #expect(refusal(none + "inject-error.0.once=x") == "Parameter 'once' expects 'on' or 'off'")
        #expect(refusal("inject-error.0.errno=5") == "Missing event name for rule")
        #expect(refusal("inject-error.1.errno=5") == "Unused option '1.errno' for [inject-error]")
        #expect(refusal("set-state.0.state=1") == "Missing event name for rule")
        #expect(
            refusal(none + "inject-error.0.nosuch=1")
                == "[inject-error] section doesn't support the option 'nosuch'")
        #expect(refusal(path: "blkdebug:x") == "blkdebug requires both config file and image path")
        let missing = failure { _ = try open(path: "blkdebug:/nosuch/config:image") }
        #expect(missing?.kind == .notFound)
        #expect(missing?.message == "Could not read blkdebug config file: No such file or directory")
    }

    @Test(arguments: [
        ("[nosuch]\na = \"b\"\n", "There is no option group 'nosuch'"),
        ("[inject-error\n", "There is no option group 'inject-error'"),
        ("[inject-error]\nnonsense\n", "Invalid parameter 'nonsense'"),
        ("[inject-error]\nevent=\"none\"\n", "Invalid parameter 'event=\"none\"'"),
        ("[inject-error]\nevent = none\n", "invalid parameter value: "),
        ("[inject-error]\nevent = \"none\"\nerrno = 5\n", "Parameter 'errno' expects a number"),
        ("[inject-error]\nerrno = \"5\"\n", "Missing event name for rule"),
        ("event = \"none\"\n", "no group defined"), ("[inject-error]\n   \n", "parse error"),
    ])
    func filesThatAreRefused(_ text: String, _ message: String) throws {
        #expect(refusal(config: text) == message)
    }

    @Test func filesHaveNamedSectionsCommentsAndWhatFollowsAValue() throws {
        let driver = try open(
            config: "[inject-error \"one\"]\n# no\n\n event = \"none\" # why\niotype = \"flush\"\n")
        #expect(failure { try driver.flush() }?.errno == 5)
        try driver.put([1], at: 0)
    }

    /// An errno of 0 lets requests pass, and uses nothing up.
    @Test func noErrorIsNoFault() throws {
        let driver = try open("inject-error.0.event=none,inject-error.0.errno=0,inject-error.0.once=on")
        try driver.put([1], at: 0)
    }

    // MARK: Limits

    @Test(arguments: [
        ("align=3", "align 3"), ("align=2147483648", "align 2147483648"),
        ("align=4096,max-transfer=512", "max-transfer 512"),
        ("align=512,opt-write-zero=100", "opt-write-zero 100"),
        ("opt-write-zero=4096,max-write-zero=512", "max-write-zero 512"),
        ("align=512,opt-discard=100", "opt-discard 100"),
        ("opt-discard=4096,max-discard=512", "max-discard 512"),
    ])
    func limitsThatContradictAreRefused(_ options: String, _ which: String) {
        #expect(refusal(options) == "Cannot meet constraints with \(which)")
    }

    /// Rules are asked about whole blocks, and about no more at once than the limit.
    @Test func requestsAreCompletedAndCut() throws {
        let fault = "inject-error.0.event=none,inject-error.0.sector=3,inject-error.0.iotype="
        let reader = try open(fault + "read,align=2048")
        #expect(reader.requestAlignment == 2048)
        #expect(failure { _ = try reader.bytes(at: 0, 1) }?.errno == 5)
        #expect(try reader.bytes(at: 2048, 1) == [1])
        // Completing a block reads it.
        #expect(failure { try reader.put([2], at: 0) }?.errno == 5)
        try reader.put([UInt8](repeating: 2, count: 2048), at: 0)
        try reader.child.close()
        let writer = try open(fault + "write,max-transfer=512")
        #expect(failure { try writer.put([UInt8](repeating: 9, count: 4096), at: 0) }?.offset == 1536)
        #expect(try writer.bytes(at: 1535, 2) == [9, 1])
        try writer.child.close()
        let status = try open(fault + "block-status,align=2048")
        #expect(failure { _ = try status.extent(at: 0, limit: 1) }?.errno == 5)
        #expect(try status.extent(at: 2048, limit: 1).length == 1)
    }

    @Test func edgesOfAWriteHaveTheirEvents() throws {
        let heads = [MetadataEvent.storageMergeHead, .storageMergedHead]
        let tails = [MetadataEvent.storageMergeTail, .storageMergedTail]
        for (offset, count, expected) in [
            (600, 100, heads + tails), (512, 100, tails), (0, 100, tails), (100, 412, heads), (0, 512, []),
            (100, 1024, heads + tails), (100, 2048, heads + tails),
        ] {
            for event in heads + tails {
                let driver = try open(
                    "align=512,inject-error.0.event=\(event.rawValue),inject-error.0.iotype=write")
                defer { try? driver.child.close() }
                let isHeard =
                    failure { try driver.put([UInt8](repeating: 2, count: count), at: offset) } != nil
                #expect(isHeard == expected.contains(event), "\(offset)+\(count): \(event)")
            }
        }
    }

    /// What is too short for zeroing is written, and what is too short for discarding is left alone.
    @Test func zeroingAndDiscardingKeepToTheLimits() throws {
        let zeroes = "inject-error.0.event=none,inject-error.0.iotype=write-zeroes,"
        let driver = try open(zeroes + "opt-write-zero=1024,max-write-zero=1024")
        try driver.writeZeroes(at: 512, count: 512, flags: [])
        #expect(try driver.bytes(at: 511, 514) == [1] + [UInt8](repeating: 0, count: 512) + [1])
        #expect(
            failure { try driver.writeZeroes(at: 0, count: 512, flags: .noFallback) }?.kind == .unsupported)
        #expect(failure { try driver.writeZeroes(at: 512, count: 1536, flags: []) }?.offset == 1024)
        #expect(try driver.bytes(at: 1024, 1) == [1])
        try driver.child.close()
        let sector = "inject-error.0.event=none,inject-error.0.iotype=discard,inject-error.0.sector=4,"
        let discarding = try open(sector + "align=512,opt-discard=1024,max-discard=1024")
        try discarding.discard(at: 2048, count: 100)
        #expect(failure { try discarding.discard(at: 0, count: 4096) }?.offset == 2048)
        #expect(failure { try discarding.discard(at: 2048, count: 512) }?.errno == 5)
    }

    @Test func permissionsBecomeLocks() throws {
        let driver = try open("take-child-perms.0=write-unchanged,unshare-child-perms.0=consistent-read")
        let path = scratch.path("image")
        #expect(
            failure { _ = try FileDriver(opening: path) }?.message == "Failed to get \"consistent read\" lock"
        )
        try driver.child.close()
        try FileDriver(opening: path).close()
        #expect(refusal("take-child-perms.0=x") == "Parameter 'take-child-perms' does not accept value 'x'")
        #expect(
            refusal("unshare-child-perms.1=write")
                == "List indices are not contiguous, saw 1 elements but 1 largest index")
        let options = try OptionTree.parse("image.filename=\(path),take-child-perms.0=resize")
        let error = failure { _ = try open(nil, options, OpenSettings()) }
        #expect(error?.message == "Block node is read-only")
    }

    @Test func flushesThatDoNothingDoNotFail() throws {
        let options = try OptionTree.parse(
            "inject-error.0.event=none,inject-error.0.iotype=flush,"
                + "image.filename=\(try scratch.file("image", [1]))")
        try open(nil, options, writing(.unsafe)).flush()
    }

    // MARK: Breakpoints

    @Test func aBreakpointHoldsOneRequestUntilItIsResumed() throws {
        let driver = try open()
        let notices = Monitor<[String]>([])
        driver.onNotice { line in
            notices.withLock { $0.append(line) }
            notices.notifyAll()
        }
        driver.setBreakpoint(at: .writeData, tag: "A")
        #expect(!driver.isSuspended(tag: "A"))
        let done = Atomic<Bool>(false)
        try WorkerThreads.run(2) { (worker) throws(BlockError) in
            if worker == 0 {
                driver.hear(.writeData)
                done.store(true, ordering: .releasing)
                return
            }
            notices.wait(until: { !$0.isEmpty }) { _ in }
            #expect(driver.isSuspended(tag: "A"))
            #expect(driver.suspendedRequests == 1)
            let isEarly = done.load(ordering: .acquiring)
            #expect(!isEarly)
            // Others go on: the breakpoint is used up.
            driver.hear(.writeData)
            #expect(driver.resume(tag: "A"))
        }
        #expect(driver.suspendedRequests == 0)
        #expect(!driver.resume(tag: "A") && !driver.removeBreakpoint(tag: "A"))
        #expect(
            notices.withLock { $0 } == ["blkdebug: Suspended request 'A'", "blkdebug: Resuming request 'A'"])
    }

    @Test func aBreakpointThatIsRemovedHoldsNobody() throws {
        let driver = try open()
        driver.setBreakpoint(at: .readData, tag: "A")
        #expect(driver.removeBreakpoint(tag: "A"))
        driver.hear(.readData)
        #expect(driver.suspendedRequests == 0)
    }

    @Test func eventsHaveTheNamesThatQemuHas() {
        let known: Set = [
            "l1_update", "l1_grow_alloc_table", "l1_grow_write_table", "l1_grow_activate_table", "l2_load",
            "l2_update", "l2_update_compressed", "l2_alloc_cow_read", "l2_alloc_write", "read_aio",
            "read_backing_aio", "read_compressed", "write_aio", "write_compressed", "vmstate_load",
            "vmstate_save", "cow_read", "cow_write", "reftable_load", "reftable_grow", "reftable_update",
            "refblock_load", "refblock_update", "refblock_update_part", "refblock_alloc",
            "refblock_alloc_hookup", "refblock_alloc_write", "refblock_alloc_write_blocks",
            "refblock_alloc_write_table", "refblock_alloc_switch_table", "cluster_alloc",
            "cluster_alloc_bytes", "cluster_free", "flush_to_os", "flush_to_disk", "pwritev_rmw_head",
            "pwritev_rmw_after_head", "pwritev_rmw_tail", "pwritev_rmw_after_tail", "pwritev",
            "pwritev_zero", "pwritev_done", "empty_image_prepare", "l1_shrink_write_table",
            "l1_shrink_free_l2_clusters", "cor_write", "cluster_alloc_space", "none",
        ]
        #expect(Set(MetadataEvent.allCases.map(\.rawValue)) == known)
    }
}
