import BlockCore

/// Reading and writing while the shell goes on.
enum IoAsynchronous {
    static func read(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        let options = try call.options("CiP:qrv", shell.complainPlainly)
        let pattern = try options.pattern()
        if options.has("i") { return shell.tell("injecting invalid read request") }
        let (offset, count) = try options.vector()
        let check = IoCheck(pattern, 0..<count)
        let buffer = IoBuffer(count: count, misaligned: shell.misaligns)
        let memory = buffer.storage
        let (isQuiet, dumps, isForMachines) = (options.has("q"), options.has("v"), options.has("C"))
        let began = MonotonicClock.nanoseconds()
        shell.requests.start(span(offset, count), writes: false) {
            do throws(BlockError) {
                var bytes = memory.mutableBytes(buffer.range)
                try node.read(into: &bytes, at: offset)
            } catch { return Array("readv failed: \(error.message)\n".utf8) }
            let elapsed = MonotonicClock.nanoseconds() - began
            var text: [UInt8] = []
            if !check.passes(buffer) { text += (check.failure(at: offset) + "\n").utf8 }
            if isQuiet { return text }
            if dumps { text += IoReport.dump(memory.bytes(buffer.range), at: offset) }
            return text + report("read", offset, count, elapsed, isForMachines)
        }
    }

    static func write(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        let options = try call.options("CfiP:qruz", shell.complainPlainly)
        let pattern = try options.pattern()
        let isZeroing = options.has("z")
        try options.require(!options.has("u") || isZeroing, "-u requires -z to be specified")
        try options.require(
            !isZeroing || options.operands.count == 2, "-z supports only a single length parameter")
        try options.require(
            !(isZeroing && pattern != nil), "-z and -P cannot be specified at the same time")
        if options.has("i") { return shell.tell("injecting invalid write request") }
        let (offset, count) = try options.vector()
        let buffer = IoBuffer(count: isZeroing ? 0 : count, misaligned: shell.misaligns)
        let memory = buffer.storage
        buffer.fill(with: pattern ?? IoShell.usualPattern)
        let (isQuiet, flushes, isForMachines) = (options.has("q"), options.has("f"), options.has("C"))
        let flags: ZeroFlags = options.has("u") ? .mayUnmap : []
        let began = MonotonicClock.nanoseconds()
        shell.requests.start(span(offset, count), writes: true) {
            do throws(BlockError) {
                if isZeroing {
                    try node.writeZeroes(at: offset, count: count, flags: flags)
                } else {
                    try node.write(memory.bytes(buffer.range), at: offset)
                }
                if flushes { try node.flush() }
            } catch { return Array("aio_write failed: \(error.message)\n".utf8) }
            let elapsed = MonotonicClock.nanoseconds() - began
            return isQuiet ? [] : report("wrote", offset, count, elapsed, isForMachines)
        }
    }

    static func flush(_ shell: IoShell, _ node: BlockNode, _ call: IoCall) throws {
        shell.requests.waitForAll()
        shell.tellEnded()
    }

    private static func span(_ offset: Int, _ count: Int) -> Range<Int> {
        let (end, overflow) = offset.addingReportingOverflow(count)
        return offset..<(overflow ? .max : end)
    }

    private static func report(
        _ action: String, _ offset: Int, _ count: Int, _ elapsed: Int, _ isForMachines: Bool
    ) -> [UInt8] {
        let report = IoReport(
            action: action, offset: offset, count: count, nanoseconds: elapsed, isForMachines: isForMachines)
        return Array(report.text.utf8)
    }
}
