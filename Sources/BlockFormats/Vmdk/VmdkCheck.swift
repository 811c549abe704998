import BlockCore

extension VmdkDriver: Checkable {
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        try exclusively { (state) throws(BlockError) in
            var result = CheckResult()
            for index in state.extents.indices {
                var extent = VmdkExtentCheck(state.extents[index], repair)
                try extent.run(report)
                result.add(extent.result)
            }
            try Self.checkSizes(&state, repair, &result, report)
            return result
        }
    }

    /// The size in the descriptor, which is written after the one in the header.
    private static func checkSizes(
        _ state: inout VmdkState, _ repair: RepairMode, _ result: inout CheckResult,
        _ report: (String) -> Void
    ) throws(BlockError) {
        guard state.extents.count == 1, let tables = state.extents[0].tables,
            state.extents[0].kindName.isEmpty, var descriptor = state.descriptor?.descriptor,
            let line = descriptor.extents.first?.extent, line.sectors != tables.header.capacitySectors
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
    var result = CheckResult()

    init(_ extent: VmdkExtent, _ repair: RepairMode) {
        self.extent = extent
        self.repair = repair
    }

    mutating func run(_ report: (String) -> Void) throws(BlockError) {
        switch extent.content {
        case .flat(let offset): try checkFlat(offset, report)
        case .sparse(let tables):
            try checkDirectory(tables, report)
            try checkGrains(tables, report)
            try checkLeaks(tables, report)
        case .seSparse(let tables): try checkSESparse(tables, report)
        case .zero, .stream, .unopened: break
        }
    }

    private func what(_ mends: Bool) -> String { mends ? "Repairing" : "ERROR" }

    // MARK: Flat files

    private mutating func checkFlat(_ offset: Int, _ report: (String) -> Void) throws(BlockError) {
        guard let file = extent.file else { return }
        let end = offset + extent.guest.count
        let length = try file.length()
        guard length < end else { return }
        let mends = repair == .all
        report("\(what(mends)) '\(extent.filename)': it ends \(end - length) bytes too early")
        guard mends else {
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
        var grain = 0
        while grain < count {
            do throws(BlockError) {
                grain += try tables.run(at: grain, limit: count - grain).count
            } catch {
                guard error.kind == .corrupt else { throw error }
                report("ERROR grain \(grain): \(error.message)")
                result.corruptions += 1
                grain += 1
            }
        }
    }

    // MARK: Sparse extents

    private mutating func checkDirectory(
        _ tables: VmdkGrainTables, _ report: (String) -> Void
    ) throws(BlockError) {
        guard tables.hasLostDirectory else { return }
        let mends = repair == .all
        report(
            "\(what(mends)) the grain directory: it is beyond the end of the file; the redundant one is used")
        guard mends else {
            result.corruptions += 1
            return
        }
        try tables.writeHeader()
        try tables.file.flush()
        tables.hasLostDirectory = false
        result.corruptionsFixed += 1
    }

    private mutating func checkGrains(
        _ tables: VmdkGrainTables, _ report: (String) -> Void
    ) throws(BlockError) {
        var survey = try VmdkSurvey(tables)
        for finding in survey.findings { report("\(what(repair == .all)) \(describe(finding))") }
        let found = survey.findingCount
        // Findings are kept in limited numbers, so that it may take several looks to mend all.
        var progresses = repair == .all
        while progresses && survey.findingCount > 0 {
            let before = survey.findingCount
            for finding in survey.findings { try mend(finding, tables) }
            try tables.commit()
            survey = try VmdkSurvey(tables)
            progresses = survey.findingCount < before
        }
        result.corruptions += survey.findingCount
        result.corruptionsFixed += max(0, found - survey.findingCount)
    }

    private func describe(_ finding: VmdkSurvey.Finding) -> String {
        switch finding {
        case .badTable(let number): "grain table \(number): it lies outside the file or over something else"
        case .beyondEnd(let grain): "grain \(grain): it lies beyond the end of the file"
        case .shared(let grain): "grain \(grain): it lies over metadata or another grain"
        case .badMarker(let grain): "grain \(grain): the marker of its compressed data is damaged"
        }
    }

    private func mend(_ finding: VmdkSurvey.Finding, _ tables: VmdkGrainTables) throws(BlockError) {
        switch finding {
        case .badTable(let number): try mendTable(number, tables)
        case .beyondEnd(let grain), .badMarker(let grain):
            // There is nothing that could be lost, but the redundant table may know better.
            let number = grain / tables.entriesPerTable
            var entry = try tables.redundantTable(number)?[grain % tables.entriesPerTable] ?? 0
            let (damaged, length) = (try tables.entry(grain), try tables.file.length())
            if entry == damaged || Int(entry) * Vmdk.sectorBytes >= length { entry = 0 }
            try tables.link(grain..<grain + 1) { _ in entry }
        case .shared(let grain): try separate(grain, tables)
        }
    }

    /// A new table with the entries of the redundant copy, where there is one.
    private func mendTable(_ number: Int, _ tables: VmdkGrainTables) throws(BlockError) {
        let empty = [UInt32](repeating: 0, count: tables.entriesPerTable)
        let copy = try tables.redundantTable(number)
        try tables.replaceTable(number, with: copy ?? empty)
    }

    /// Gives a grain a place of its own, with the bytes that it shared.
    private func separate(_ grain: Int, _ tables: VmdkGrainTables) throws(BlockError) {
        let source = try tables.hostOffset(tables.entry(grain))
        let count =
            tables.header.isCompressed
            ? VmdkGrainCodec.maximumBytes(grainBytes: tables.grainBytes) : tables.grainBytes
        let bytes = try tables.file.readBytes(at: source, count: count)
        let place = try tables.allocate(count)
        try tables.file.write(bytes.span.bytes, at: place)
        try tables.link(grain..<grain + 1) { _ in UInt32(place / Vmdk.sectorBytes) }
        try tables.commit()
    }

    private mutating func checkLeaks(
        _ tables: VmdkGrainTables, _ report: (String) -> Void
    ) throws(BlockError) {
        let survey = try VmdkSurvey(tables)
        let mends = repair != .none && survey.findingCount == 0
        if survey.staleTableCount > 0 {
            report(
                "\(mends ? "Repairing" : "Leaked") \(survey.staleTableCount) redundant grain tables: "
                    + "they are not like the primary ones, which count")
        }
        if survey.leaks > 0 {
            report(
                "\(mends ? "Repairing" : "Leaked") room for \(survey.leaks) grains, which nothing refers to")
        }
        let found = survey.leaks + survey.staleTableCount
        guard mends, found > 0 else {
            result.leaks += found
            return
        }
        for number in survey.staleTables { try tables.markForRewriting(number) }
        try tables.commit()
        if survey.leaks > 0 { try VmdkCompaction(tables).run() }
        let after = try VmdkSurvey(tables)
        let left = after.leaks + after.staleTableCount
        result.leaks += left
        result.leaksFixed += max(0, found - left)
    }
}
