import BlockCore

/// The commands that read and write while the shell takes further commands.
enum IoAsynchronous {
    static func read(_ shell: IoShell, _ disk: BlockDevice, _ call: IoCall) throws {
        let options = try call.options("CiP:qrv", shell.complainPlainly)
        let pattern = try options.pattern()
        if options.has("i") { return shell.print("injecting invalid read request") }
        let span = try options.vector()
        let reading = IoReading(
            request: IoRequest("read", span, options, failure: "readv failed"), disk: disk,
            check: IoCheck(pattern, 0..<span.count),
            buffer: IoBuffer(count: span.count, misaligned: shell.misaligns))
        shell.requests.start(span.range, writes: false) { reading.outcome().uncounted }
    }

    static func write(_ shell: IoShell, _ disk: BlockDevice, _ call: IoCall) throws {
        let options = try call.options("CfiP:qruz", shell.complainPlainly)
        let pattern = try options.pattern()
        let isZeroing = options.has("z")
        try options.require(!options.has("u") || isZeroing, "-u requires -z to be specified")
        try options.require(
            !isZeroing || options.operands.count == 2, "-z supports only a single length parameter")
        try options.require(
            !(isZeroing && pattern != nil), "-z and -P cannot be specified at the same time")
        if options.has("i") { return shell.print("injecting invalid write request") }
        let span = isZeroing ? try options.range(limit: nil) : try options.vector()
        let buffer = IoBuffer(count: isZeroing ? 0 : span.count, misaligned: shell.misaligns)
        let memory = buffer.storage
        buffer.fill(with: pattern ?? IoShell.usualPattern)
        let change = IoChange(IoRequest("wrote", span, options, failure: "aio_write failed")) {
            () throws(BlockError) in
            if isZeroing {
                try IoTransfers.zero(disk, span, options)
            } else {
                try disk.write(memory.bytes(buffer.range), at: span.offset)
                if options.has("f") { try disk.flush() }
            }
        }
        shell.requests.start(span.range, writes: true) { change.outcome().uncounted }
    }

    static func flush(_ shell: IoShell, _ disk: BlockDevice, _ call: IoCall) throws {
        shell.requests.waitForAll()
        shell.printEndedReports()
    }
}
