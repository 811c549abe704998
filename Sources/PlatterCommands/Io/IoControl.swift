import BlockCore
import BlockFilters

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Breakpoints, signals, waiting and help.
enum IoControl {
    private static let missing = "No such file or directory"
    /// In milliseconds; some decades.
    private static let longestSleep: UInt64 = 1 << 40
    private static let unsupported = "Operation not supported"

    static func setBreak(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        guard let driver = shell.debugger(of: node) else {
            throw IoFailure.output("Could not set breakpoint: \(unsupported)")
        }
        guard let event = MetadataEvent(rawValue: call.arguments[0]) else {
            throw IoFailure.output("Could not set breakpoint: \(missing)")
        }
        driver.setBreakpoint(at: event, tag: call.arguments[1])
    }

    static func removeBreak(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        let tag = call.arguments[0]
        guard let driver = shell.debugger(of: node) else {
            throw IoFailure.output("Could not remove breakpoint \(tag): \(unsupported)")
        }
        guard driver.removeBreakpoint(tag: tag) else {
            throw IoFailure.output("Could not remove breakpoint \(tag): \(missing)")
        }
    }

    static func resume(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        guard let driver = shell.debugger(of: node) else {
            throw IoFailure.output("Could not resume request: \(unsupported)")
        }
        guard driver.resume(tag: call.arguments[0]) else {
            throw IoFailure.output("Could not resume request: \(missing)")
        }
    }

    /// Waits until a request is held under the tag. Fails where no request is under way, as it would wait
    /// forever.
    static func waitForBreak(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        let tag = call.arguments[0]
        let driver = shell.debugger(of: node)
        while driver?.isSuspended(tag: tag) != true {
            if driver == nil || shell.requests.isIdle {
                throw IoFailure.output("Could not wait for breakpoint \(tag): no request is under way")
            }
            WorkerThreads.sleep(nanoseconds: 500_000)
        }
        shell.printEndedReports()
    }

    static func sleep(_ shell: IoShell, _ call: IoCall) throws {
        guard let milliseconds = CLikeNumber.unsigned(call.arguments[0]), milliseconds <= longestSleep else {
            throw IoFailure.output("\(call.arguments[0]) is not a valid number")
        }
        WorkerThreads.sleep(nanoseconds: Int(milliseconds) * 1_000_000)
        shell.printEndedReports()
    }

    static func raiseSignal(_ shell: IoShell, _ call: IoCall) throws {
        let number = try IoOptions.size(call.arguments[0])
        shell.terminal.flush()
        raise(Int32(clamping: number))
    }

    static func abortProgram(_ shell: IoShell, _ call: IoCall) throws {
        shell.terminal.flush()
        abort()
    }

    static func quit(_ shell: IoShell, _ call: IoCall) throws { shell.isDone = true }

    static func help(_ shell: IoShell, _ call: IoCall) throws {
        guard let name = call.arguments.first else {
            for verb in IoCatalog.verbs(asQemu: shell.context.isCalledAsQemu) { shell.print(verb.usage) }
            return shell.print("\nUse 'help commandname' for extended help.")
        }
        guard let verb = IoCatalog.verb(named: name, asQemu: shell.context.isCalledAsQemu) else {
            throw IoFailure.output("command \(name) not found")
        }
        shell.print(verb.usage)
        if !verb.help.isEmpty { shell.print("\n " + verb.help.joined(separator: "\n ") + "\n") }
    }

    /// The commands on zones, which fail: no storage here has zones.
    static func zone(_ what: String) -> IoVerb.Work {
        .image { shell, node, call in
            for text in call.arguments { _ = try IoOptions.size(text) }
            throw IoFailure.output("zone \(what) failed: \(unsupported)")
        }
    }
}
