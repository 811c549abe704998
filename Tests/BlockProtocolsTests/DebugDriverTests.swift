import BlockCore
import BlockProtocols
import Synchronization
import Testing

/// Rules and breakpoints of `blkdebug`.
@Suite struct DebugDriverTests {
    let scratch: Scratch
    init() throws { scratch = try Scratch() }

    /// Opens a file of eight sectors below rules, which are options or a file's text.
    private func open(
        _ options: String = "", config: String? = nil, path: String? = nil
    ) throws -> DebugDriver {
        let image = try scratch.file("image", [UInt8](repeating: 1, count: 4096))
        var tree = try OptionTree.parse(options)
        var name = image
        if let config {
            name = "blkdebug:\(try scratch.file("config", Array(config.utf8))):\(image)"
        }
        let driver = try DebugDriver.entry.open(path ?? name, &tree, writing())
        #expect(tree.isEmpty)
        return try #require(driver as? DebugDriver)
    }

    private func refusal(_ options: String = "", config: String? = nil, path: String? = nil) -> String? {
        failure { _ = try open(options, config: config, path: path) }?.message
    }

    // MARK: Rules

    @Test func aRuleWithoutAnEventHoldsFromTheStart() throws {
        let driver = try open("inject-error.0.errno=28")
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
        let driver = try open("inject-error.0.iotype=\(kind)")
        let calls: [(String, () throws -> Void)] = [
            ("read", { _ = try driver.bytes(at: 0, 1) }), ("write", { try driver.put([1], at: 0) }),
            ("write-zeroes", { try driver.writeZeroes(at: 0, count: 1, flags: []) }),
            ("discard", { try driver.discard(at: 0, count: 1) }), ("flush", { try driver.flush() }),
            ("block-status", { _ = try driver.extent(at: 0, limit: 1) }),
        ]
        for (name, call) in calls { #expect((failure(call)?.errno == 5) == (name == kind), "\(name)") }
    }

    @Test func aRuleOfASectorIsForRequestsThatTouchIt() throws {
        let driver = try open("inject-error.0.sector=2,inject-error.0.once=on")
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
        let config = try scratch.file("rules", Array("[inject-error]\niotype = \"flush\"\n".utf8))
        let driver = try open("config=\(config),inject-error.0.iotype=discard")
        #expect(failure { try driver.flush() } != nil)
        #expect(failure { try driver.discard(at: 0, count: 1) } != nil)
        try driver.put([1], at: 0)
    }

    @Test func whatIsNoRuleIsRefused() throws {
        #expect(refusal("inject-error.0.event=nosuch") == "Invalid event name \"nosuch\"")
        #expect(refusal("inject-error.0.iotype=x") == "Parameter 'iotype' does not accept value 'x'")
        #expect(refusal("inject-error.0.errno=x") == "Parameter 'errno' expects a number")
        #expect(refusal("inject-error.1.errno=5") == "'inject-error' must be a list numbered from 0")
        #expect(refusal("set-state.0.state=1") == "Missing event name for rule")
        #expect(refusal("inject-error.0.nosuch=1") != nil)
        #expect(refusal(config: "[nosuch]\na = \"b\"\n") == "There is no option group 'nosuch'")
        #expect(
            refusal(config: "[inject-error]\nnonsense\n")
                == "Could not parse blkdebug config line 'nonsense'")
        #expect(refusal(path: "blkdebug:x") == "blkdebug requires both config file and image path")
        #expect(failure { _ = try open(path: "blkdebug:/nosuch/config:image") }?.kind == .notFound)
    }

    // MARK: Breakpoints

    @Test func aBreakpointHoldsOneRequestUntilItIsResumed() throws {
        let driver = try open()
        let notices = Mutex<[String]>([])
        driver.onNotice { line in notices.withLock { $0.append(line) } }
        driver.setBreakpoint(at: .writeData, tag: "A")
        #expect(!driver.isSuspended(tag: "A"))
        let done = Atomic<Bool>(false)
        try WorkerThreads.run(2) { (worker) throws(BlockError) in
            if worker == 0 {
                driver.hear(.writeData)
                done.store(true, ordering: .releasing)
                return
            }
            while !driver.isSuspended(tag: "A") { WorkerThreads.sleep(nanoseconds: 1_000_000) }
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

    /// The names that QEMU 10.2 knows and that have no step here are refused rather than waited for.
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
        let ours = Set(MetadataEvent.allCases.map(\.rawValue))
        #expect(ours.subtracting(known) == [])
        #expect(
            known.subtracting(ours) == [
                "refblock_update", "pwritev_rmw_head", "pwritev_rmw_after_head", "pwritev_rmw_tail",
                "pwritev_rmw_after_tail", "cluster_alloc_space", "none",
            ])
    }
}
