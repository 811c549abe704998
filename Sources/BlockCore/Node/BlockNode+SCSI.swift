import Synchronization

/// SCSI commands and control requests that are passed to the device below a node.
extension BlockNode {
    /// Whether the storage below takes commands only, as Linux's `sg` devices do.
    public var isSCSIGeneric: Bool { innermost.storage?.asSCSIPassing?.isSCSIGeneric == true }

    /// Sends a SCSI command to the device below filters and formats that show its bytes as they are.
    ///
    /// A command that may change the medium waits for the requests under way, counts as a change of the whole
    /// disk, and needs a writable node.
    ///
    /// - Parameter data: the data of the command; empty for a command without data.
    /// - Returns: what the device answered, also when it reports a failure.
    /// - Throws: `unsupported` for anything but a device that takes commands; `readOnly`; `limit`,
    ///   `notFound`,
    ///   `busy`, `io`.
    public func send(_ command: SCSICommand, data: inout MutableRawSpan) throws(BlockError) -> SCSIResult {
        try checkOpen()
        switch layer {
        case .storage(let driver):
            guard let device = driver.asSCSIPassing else { throw cannotPass() }
            if !command.onlyReads {
                try checkWritable()
                needsFlush.store(true, ordering: .relaxed)
            }
            return try device.send(command, data: &data)
        case .filter:
            // A filter would not hear of a change.
            guard command.onlyReads, let shownChild else { throw cannotPass() }
            return try shownChild.send(command, data: &data)
        case .format(let driver):
            let file = try wholeFile(driver)
            if command.onlyReads { return try file.send(command, data: &data) }
            return try changing(driver, by: command, data: &data, on: file)
        }
    }

    private func changing(
        _ driver: any FormatDriver, by command: SCSICommand, data: inout MutableRawSpan, on file: BlockNode
    ) throws(BlockError) -> SCSIResult {
        let ticket = acquireAll()
        defer { requests.releaseAll(ticket) }
        try checkChangeable()
        let all = 0..<driver.virtualSize
        try noteChange(in: all)
        needsFlush.store(true, ordering: .relaxed)
        do throws(BlockError) {
            let result = try file.send(command, data: &data)
            for observer in observers.all { observer.didChange(all) }
            return result
        } catch {
            for observer in observers.all { observer.didFail(all) }
            throw error
        }
    }

    /// Passes a control request to the device below.
    ///
    /// - Parameter argument: the bytes that the request reads or changes.
    /// - Returns: what the request answered besides.
    /// - Throws: as ``send(_:data:)``; `invalidArgument` for a short argument.
    public func control(
        _ request: DeviceRequest, _ argument: inout MutableRawSpan
    ) throws(BlockError) -> Int {
        try checkOpen()
        switch layer {
        case .storage(let driver):
            guard let device = driver.asSCSIPassing else { throw cannotPass() }
            return try device.control(request, &argument)
        case .filter:
            guard let shownChild else { throw cannotPass() }
            return try shownChild.control(request, &argument)
        case .format(let driver): return try wholeFile(driver).control(request, &argument)
        }
    }

    /// The file of a format that shows all of its bytes as they are: commands address the device, not a part.
    private func wholeFile(_ driver: any FormatDriver) throws(BlockError) -> BlockNode {
        guard type(of: driver).traits.contains(.plainBytes), let file else { throw cannotPass() }
        let size = driver.virtualSize
        guard size >= (try file.length()) else { throw cannotPass() }
        if size > 0, case .data(let start) = try driver.extent(at: 0, limit: 1).status, start != 0 {
            throw cannotPass()
        }
        return file
    }

    private func cannotPass() -> BlockError {
        BlockError(
            .unsupported, "Driver '\(driverName)' of '\(filename)' takes no SCSI commands", path: filename)
    }
}
