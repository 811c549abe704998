import BlockCore

extension VmdkDriver: Checkable {
    /// - Throws: `io`, `noSpace`, `limit`; findings are in the result.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try session.exclusively { (state) throws(BlockError) in
            if let line = Self.misstatedSize(state), line.sectors * Vmdk.sectorBytes > state.virtualSize {
                return try checkShortened(&state, line, repair, report)
            }
            if repair != .none, Self.misstatedSize(state) != nil {
                let found = try Self.checkExtents(state, .none) { _ in }
                guard found.corruptions == 0 else {
                    report(
                        "ERROR the header and the descriptor state different sizes, and the tables do not "
                            + "fit the header's: nothing is repaired, because the tables may be data")
                    return try Self.checkExtents(state, .none, report)
                }
            }
            var result = try Self.checkExtents(state, repair, report)
            try Self.checkSizes(&state, repair, &result, report)
            return result
        }
    }

    /// Checks for a header with a smaller size than the descriptor: no interrupted resize leaves that, so the
    /// header is damaged. The tables can prove the descriptor right.
    private func checkShortened(
        _ state: inout VmdkState, _ line: VmdkExtentLine, _ repair: RepairMode, _ report: (String) -> Void
    ) throws(BlockError) -> CheckResult {
        let larger = repair == .all ? try Self.enlarged(state, to: line.sectors) : nil
        let sectors = state.virtualSize / Vmdk.sectorBytes
        report(
            "\(larger == nil ? "ERROR" : "Repairing") the header: it says that the disk has \(sectors) "
                + "sectors, and the descriptor says \(line.sectors)")
        guard let larger else {
            if repair != .none { report("ERROR nothing is repaired before 'resize' has said which is right") }
            var result = try Self.checkExtents(state, .none, report)
            result.corruptions += 1
            return result
        }
        try larger.storeHeader()
        state.extents[0].content = .sparse(larger)
        state.extents[0].guest = 0..<line.sectors * Vmdk.sectorBytes
        state.shareTableMemory()
        var result = try Self.checkExtents(state, repair, report)
        result.corruptionsFixed += 1
        return result
    }

    /// The tables of a disk in one file, read with another size; `nil` when they are not sound.
    private static func enlarged(
        _ state: VmdkState, to sectors: Int
    ) throws(BlockError) -> VmdkGrainTables? {
        guard let old = state.extents[0].tables else { return nil }
        var header = old.header
        header.capacitySectors = sectors
        guard header.directoryEntries <= Vmdk.Limit.directoryEntries else { return nil }
        let tables: VmdkGrainTables
        do throws(BlockError) { tables = try VmdkGrainTables(file: old.file, header: header) } catch {
            guard error.kind == .corrupt else { throw error }
            return nil
        }
        return try VmdkSurvey(tables).findings.count == 0 ? tables : nil
    }

    private static func checkExtents(
        _ state: VmdkState, _ repair: RepairMode, _ report: (String) -> Void
    ) throws(BlockError) -> CheckResult {
        var result = CheckResult()
        for index in state.extents.indices {
            let hasParent = state.descriptor?.descriptor.parentHint != nil
            var extent = VmdkExtentCheck(state.extents[index], repair, hasParent: hasParent)
            try extent.run(report)
            result.add(extent.result)
        }
        return result
    }

    /// The extent line of a disk in one file, if its size differs from the header's.
    private static func misstatedSize(_ state: VmdkState) -> VmdkExtentLine? {
        guard state.extents.count == 1, let tables = state.extents[0].tables,
            state.extents[0].kindName.isEmpty, let line = state.descriptor?.descriptor.extents.first?.extent,
            line.sectors != tables.header.capacitySectors
        else { return nil }
        return line
    }

    /// Checks the size in the descriptor, which is written after the one in the header.
    private static func checkSizes(
        _ state: inout VmdkState, _ repair: RepairMode, _ result: inout CheckResult,
        _ report: (String) -> Void
    ) throws(BlockError) {
        guard let line = misstatedSize(state), let tables = state.extents[0].tables,
            var descriptor = state.descriptor?.descriptor
        else { return }
        report(
            "\(repair == .none ? "Leaked" : "Repairing") the descriptor: it says that the disk has "
                + "\(line.sectors) sectors, and the header, which counts, \(tables.header.capacitySectors)")
        guard repair != .none else {
            result.leaks += 1
            return
        }
        var changed = line
        changed.sectors = tables.header.capacitySectors
        descriptor.setExtent(0, changed)
        descriptor.setGeometry(sectors: changed.sectors)
        try state.descriptor?.replace(with: descriptor)
        result.leaksFixed += 1
    }
}

extension CheckResult {
    fileprivate mutating func add(_ other: CheckResult) {
        corruptions += other.corruptions
        leaks += other.leaks
        corruptionsFixed += other.corruptionsFixed
        leaksFixed += other.leaksFixed
    }
}

/// The check of one extent.
private struct VmdkExtentCheck {
    let extent: VmdkExtent
    let repair: RepairMode
    let hasParent: Bool
    var result = CheckResult()

    init(_ extent: VmdkExtent, _ repair: RepairMode, hasParent: Bool) {
        self.extent = extent
        self.repair = repair
        self.hasParent = hasParent
    }

    mutating func run(_ report: (String) -> Void) throws(BlockError) {
        switch extent.content {
        case .flat(let offset): try checkFlat(offset, report)
        case .sparse(let tables):
            // The directory first: the survey reads the tables that it names.
            try checkDirectory(tables, report)
            var check = VmdkSparseCheck(tables: tables, hasParent: hasParent)
            result.add(try check.check(repair, report))
        case .seSparse(let tables): try checkSESparse(tables, report)
        case .zero, .stream, .unopened: break
        }
    }

    private func what(_ repairs: Bool) -> String { repairs ? "Repairing" : "ERROR" }

    // MARK: Flat files

    private mutating func checkFlat(_ offset: Int, _ report: (String) -> Void) throws(BlockError) {
        guard let file = extent.file else { return }
        let end = offset + extent.guest.count
        let length = try file.length()
        guard length < end else { return }
        let repairs = repair == .all
        report("\(what(repairs)) '\(extent.filename)': it ends \(end - length) bytes too early")
        guard repairs else {
            result.corruptions += 1
            return
        }
        try file.resize(to: end)
        try file.flush()
        result.corruptionsFixed += 1
    }

    // MARK: SEsparse

    private mutating func checkSESparse(
        _ tables: VmdkSESparse, _ report: (String) -> Void
    ) throws(BlockError) {
        let count = (extent.guest.count + tables.grainBytes - 1) / tables.grainBytes
        for (number, isShared) in tables.sharedTables.enumerated() {
            let first = number * VmdkSESparse.entriesPerTable
            guard first < count else { return }
            if isShared {
                report("ERROR grain table \(number): its place is another one's")
                result.corruptions += 1
            } else {
                try checkTable(
                    number, first..<min(count, first + VmdkSESparse.entriesPerTable), tables, report)
            }
        }
    }

    private mutating func checkTable(
        _ number: Int, _ grains: Range<Int>, _ tables: VmdkSESparse, _ report: (String) -> Void
    ) throws(BlockError) {
        var grain = grains.lowerBound
        while grain < grains.upperBound {
            do throws(BlockError) {
                let run = try tables.run(at: grain, limit: grains.upperBound - grain)
                if case .grain(let host) = run.place { countLost(grain, run.count, host, tables, report) }
                grain += run.count
            } catch {
                guard error.kind == .corrupt else { throw error }
                report("ERROR grain \(grain): \(error.message)")
                result.corruptions += 1
                grain = tables.hasTable(number) ? grain + 1 : grains.upperBound
            }
        }
    }

    /// Counts the grains of a run that are not wholly in the file.
    private mutating func countLost(
        _ grain: Int, _ count: Int, _ host: Int, _ tables: VmdkSESparse, _ report: (String) -> Void
    ) {
        let whole = max(0, tables.length - host) / tables.grainBytes
        guard whole < count else { return }
        report("ERROR grain \(grain + whole): its data is beyond the end of the file")
        result.corruptions += count - whole
    }

    // MARK: Sparse extents

    private mutating func checkDirectory(
        _ tables: VmdkGrainTables, _ report: (String) -> Void
    ) throws(BlockError) {
        guard tables.hasLostDirectory else { return }
        let repairs = repair == .all
        report(
            "\(what(repairs)) the grain directory: it is beyond the end of the file; "
                + "the redundant one is used")
        guard repairs else {
            result.corruptions += 1
            return
        }
        try tables.storeHeader()
        tables.hasLostDirectory = false
        result.corruptionsFixed += 1
    }
}
