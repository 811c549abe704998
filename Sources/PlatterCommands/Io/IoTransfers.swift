import BlockCore
import BlockProtocols

/// The commands that read and write while the shell waits.
enum IoTransfers {
    static func read(_ shell: IoShell, _ disk: BlockDevice, _ call: IoCall) throws {
        let options = try call.options("abCl:pP:qrs:v", shell.complainPlainly)
        let pattern = try options.pattern()
        let skip = try options.size(of: "s")
        let length = try options.size(of: "l")
        let span = try options.range()
        if pattern == nil && (skip != nil || length != nil) { throw IoFailure.usage }
        let start = skip ?? 0
        guard start <= span.count, length ?? 0 <= span.count - start else {
            throw IoFailure.output("pattern verification range exceeds end of read data")
        }
        if options.has("b") { try IoOptions.checkSectors(span) }
        let check = IoCheck(pattern, start..<start + (length ?? span.count - start))
        try perform(IoRequest("read", span, options, failure: "read failed"), check, shell, disk)
    }

    static func readVector(_ shell: IoShell, _ disk: BlockDevice, _ call: IoCall) throws {
        let options = try call.options("CP:qrv", shell.complainPlainly)
        let pattern = try options.pattern()
        let span = try options.vector()
        let request = IoRequest("read", span, options, failure: "readv failed")
        try perform(request, IoCheck(pattern, 0..<span.count), shell, disk)
    }

    private static func perform(
        _ request: IoRequest, _ check: IoCheck, _ shell: IoShell, _ disk: BlockDevice
    ) throws {
        let buffer = IoBuffer(count: request.span.count, misaligned: shell.misaligns)
        let reading = IoReading(request: request, disk: disk, check: check, buffer: buffer)
        try shell.perform(disk) { reading.outcome() }
    }

    static func write(_ shell: IoShell, _ disk: BlockDevice, _ call: IoCall) throws {
        let options = try call.options("bcCfnpP:qrs:uz", shell.complainPlainly)
        try checkFlags(options)
        let pattern = try options.pattern()
        let isUnlimited = options.has("n") && options.has("z")
        let span = try options.range(limit: isUnlimited ? nil : " without -n")
        if options.has("b") || options.has("c") { try IoOptions.checkSectors(span) }
        if options.has("z") {
            let change = IoChange(IoRequest("wrote", span, options, failure: "write failed")) {
                () throws(BlockError) in try zero(disk, span, options)
            }
            return try shell.perform(disk) { change.outcome() }
        }
        let buffer = IoBuffer(count: span.count, misaligned: shell.misaligns)
        let memory = buffer.storage
        buffer.fill(with: pattern ?? IoShell.usualPattern)
        if let source = options.values["s"] { try fill(buffer, from: source, shell) }
        let change = IoChange(IoRequest("wrote", span, options, failure: "write failed")) {
            () throws(BlockError) in
            if options.has("b") {
                try disk.withRoot { node throws(BlockError) in
                    try node.saveVMState(memory.bytes(buffer.range), at: span.offset)
                }
            } else if options.has("c") {
                try disk.withRoot { node throws(BlockError) in
                    try compress(memory.bytes(buffer.range), at: span.offset, node)
                }
            } else {
                try disk.write(memory.bytes(buffer.range), at: span.offset)
            }
            if options.has("f") { try disk.flush() }
        }
        try shell.perform(disk) { change.outcome() }
    }

    static func writeVector(_ shell: IoShell, _ disk: BlockDevice, _ call: IoCall) throws {
        let options = try call.options("CfP:qr", shell.complainPlainly)
        let pattern = try options.pattern()
        let span = try options.vector()
        let buffer = IoBuffer(count: span.count, misaligned: shell.misaligns)
        let memory = buffer.storage
        buffer.fill(with: pattern ?? IoShell.usualPattern)
        let change = IoChange(IoRequest("wrote", span, options, failure: "writev failed")) {
            () throws(BlockError) in
            try disk.write(memory.bytes(buffer.range), at: span.offset)
            if options.has("f") { try disk.flush() }
        }
        try shell.perform(disk) { change.outcome() }
    }

    private static func checkFlags(_ options: IoOptions) throws(IoFailure) {
        let has = options.has
        try options.require(!(has("b") && has("z")), "-b and -z cannot be specified at the same time")
        try options.require(
            !(has("c") && (has("b") || has("z"))), "-c and -b or -z cannot be specified at the same time")
        try options.require(
            !(has("f") && (has("b") || has("c"))), "-f and -b or -c cannot be specified at the same time")
        try options.require(!has("n") || has("z"), "-n requires -z to be specified")
        try options.require(!has("u") || has("z"), "-u requires -z to be specified")
        let sources = ["z", "P", "s"].filter { has(Character($0)) }
        try options.require(
            sources.count <= 1, "Only one of -z, -P, and -s can be specified at the same time")
    }

    /// Writes zeroes: `-z` with its flags.
    static func zero(
        _ disk: BlockDevice, _ span: IoSpan, _ options: IoOptions
    ) throws(BlockError) {
        var flags: ZeroFlags = []
        if options.has("u") { flags.insert(.mayUnmap) }
        if options.has("n") { flags.insert(.noFallback) }
        try disk.writeZeroes(at: span.offset, count: span.count, flags: flags)
        if options.has("f") { try disk.flush() }
    }

    /// Writes whole units compressed; a unit that does not become smaller is stored as data.
    private static func compress(_ bytes: RawSpan, at offset: Int, _ node: BlockNode) throws(BlockError) {
        guard let driver = node.format?.asCompressedWriting else {
            throw BlockError(.unsupported, "Operation not supported")
        }
        let unit = driver.compressedUnitBytes
        let (end, overflow) = offset.addingReportingOverflow(bytes.byteCount)
        guard !overflow, end <= driver.virtualSize else { throw BlockError(.io, "Input/output error") }
        guard offset % unit == 0, end % unit == 0 || end == driver.virtualSize else {
            throw BlockError(.invalidArgument, "Invalid argument")
        }
        let output = AlignedBuffer(count: unit)
        var done = 0
        while done < bytes.byteCount {
            let part = bytes.extracting(done..<min(bytes.byteCount, done + unit))
            var room = output.mutableBytes
            if let size = try driver.compress(part, into: &room) {
                try node.writeCompressed(output.bytes(0..<size), at: offset + done)
            } else {
                try node.write(part, at: offset + done)
            }
            done += part.byteCount
        }
    }

    /// Fills a buffer with the bytes of a file, repeated as often as they fit.
    private static func fill(_ buffer: IoBuffer, from path: String, _ shell: IoShell) throws {
        let bytes: [UInt8]
        do throws(BlockError) {
            bytes = try HostPath.prefix(of: path, count: buffer.count)
        } catch {
            shell.complainPlainly(error.errno.map { "\(path): \(HostErrors.text($0))" } ?? error.message)
            throw IoFailure.silent
        }
        guard !bytes.isEmpty || buffer.count == 0 else {
            shell.complainPlainly("\(path): file is empty")
            throw IoFailure.silent
        }
        let memory = buffer.storage
        var target = memory.mutableBytes(buffer.range)
        var done = 0
        while done < buffer.count {
            let part = min(bytes.count, buffer.count - done)
            target.copy(from: bytes.span.bytes.extracting(0..<part), at: done)
            done += part
        }
    }
}

/// The check of `-P`: every byte read has to be the pattern.
struct IoCheck: Sendable {
    let pattern: UInt8?
    let range: Range<Int>

    init(_ pattern: UInt8?, _ range: Range<Int>) {
        self.pattern = pattern
        self.range = range
    }

    func passes(_ buffer: IoBuffer) -> Bool { pattern.map { buffer.holds($0, in: range) } ?? true }

    func failure(at offset: Int) -> String {
        "Pattern verification failed at offset \(offset + range.lowerBound), \(range.count) bytes"
    }
}
