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
    private static let unsupported = "Operation not supported"

    static func setBreak(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        guard let driver = shell.debugger(of: node) else {
            throw IoFailure.told("Could not set breakpoint: \(unsupported)")
        }
        guard let event = MetadataEvent(rawValue: call.arguments[0]) else {
            throw IoFailure.told("Could not set breakpoint: \(missing)")
        }
        driver.setBreakpoint(at: event, tag: call.arguments[1])
    }

    static func removeBreak(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        let tag = call.arguments[0]
        guard let driver = shell.debugger(of: node) else {
            throw IoFailure.told("Could not remove breakpoint \(tag): \(unsupported)")
        }
        guard driver.removeBreakpoint(tag: tag) else {
            throw IoFailure.told("Could not remove breakpoint \(tag): \(missing)")
        }
    }

    static func resume(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        guard let driver = shell.debugger(of: node) else {
            throw IoFailure.told("Could not resume request: \(unsupported)")
        }
        guard driver.resume(tag: call.arguments[0]) else {
            throw IoFailure.told("Could not resume request: \(missing)")
        }
    }

    /// Waits until a request is held; it would wait forever where none is under way.
    static func waitForBreak(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        let tag = call.arguments[0]
        let driver = shell.debugger(of: node)
        while driver?.isSuspended(tag: tag) != true {
            if driver == nil || shell.requests.isIdle {
                throw IoFailure.told("Could not wait for breakpoint \(tag): no request is under way")
            }
            WorkerThreads.sleep(nanoseconds: 500_000)
        }
        shell.tellEnded()
    }

    static func sleep(_ shell: IoShell, _ call: IoCall) throws {
        guard let milliseconds = CLikeNumber.unsigned(call.arguments[0]), milliseconds <= 1 << 40 else {
            throw IoFailure.told("\(call.arguments[0]) is not a valid number")
        }
        WorkerThreads.sleep(nanoseconds: Int(milliseconds) * 1_000_000)
        shell.tellEnded()
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
            for verb in IoCatalog.all { shell.tell(verb.usage) }
            return shell.tell("\nUse 'help commandname' for extended help.")
        }
        guard let verb = IoCatalog.verb(named: name) else {
            throw IoFailure.told("command \(name) not found")
        }
        shell.tell(verb.usage)
        if !verb.help.isEmpty { shell.tell("\n " + verb.help.joined(separator: "\n ") + "\n") }
    }

    /// The commands on zones: no storage here has any.
    static func zone(_ what: String) -> IoVerb.Work {
        .image { shell, node, call in
            for text in call.arguments { _ = try IoOptions.size(text) }
            throw IoFailure.told("zone \(what) failed: \(unsupported)")
        }
    }
}
