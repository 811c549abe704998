import BlockCore

/// Looks through all tables of an image, and counts who refers to which cluster.
///
/// Works in passes over windows of the file, so memory does not grow with the image. Each pass sees all
/// references again: what they are is noted in the first.
struct Qcow2Surveyor {
    let scope: Qcow2CheckScope
    var survey = Qcow2Survey()
    /// The references to the clusters that this pass counts.
    var window = ReferenceWindow(0..<0)
    /// What is set right on the way; `nil` for a survey that changes nothing.
    var refcountRepair: Qcow2RefcountRepair?

    var tables: Qcow2State { scope.tables }
    var layout: Qcow2Layout { scope.layout }

    init(_ scope: Qcow2CheckScope, repairing: Qcow2RefcountRepair? = nil) {
        self.scope = scope
        refcountRepair = repairing
    }

    /// Counts references and compares them with the refcounts, window by window.
    ///
    /// - Throws: `io`, `limit`; ``survey`` has what was found until then.
    mutating func run() throws(BlockError) {
        var start = 0
        // Behind the last reference and the last block, everything is zero and agrees.
        var limit = scope.countedClusters
        repeat {
            let end = min(limit, start + ReferenceWindow.size)
            if start == 0 {
                window = ReferenceWindow(start..<max(start, end))
                try countReferences()
            } else {
                window = try Self.references(to: start..<max(start, end), scope)
            }
            limit = min(
                scope.countedClusters, max(survey.endOfReferences, try tables.refcounts().endOfBlocks.index))
            try checkOverlaps()
            try compare()
            start = end
        } while start < limit
    }

    /// Counts the references to some clusters, and nothing else.
    static func references(
        to clusters: Range<Int>, _ scope: Qcow2CheckScope
    ) throws(BlockError) -> ReferenceWindow {
        var surveyor = Qcow2Surveyor(scope)
        surveyor.window = ReferenceWindow(clusters)
        try surveyor.countReferences()
        return surveyor.window
    }

    /// Counts every reference that the image's structures make to clusters of the window.
    mutating func countReferences() throws(BlockError) {
        let header = tables.header
        window.count(0..<1)
        try countActiveTree()
        try countSnapshots()
        try countBitmaps()
        countEncryptionHeader()
        count(
            "refcount table", header.refcountTableOffset, header.refcountTableClusters << layout.clusterBits)
        try countRefcountBlocks()
    }

    /// Counts a piece of metadata, if it lies in the file.
    @discardableResult
    mutating func count(_ what: @autoclosure () -> String, _ offset: Int, _ bytes: Int) -> Bool {
        if bytes == 0 { return true }
        guard let clusters = scope.clusters(of: offset, bytes) else {
            survey.corruption(Qcow2CheckScope.behindEnd(what(), offset, bytes))
            survey.cannotFollow("the \(what()) is not all in the file")
            return false
        }
        window.count(clusters)
        survey.reach(clusters.upperBound)
        return true
    }

    /// Counts clusters that lie in the file.
    mutating func count(_ clusters: Range<Int>) {
        window.count(clusters)
        if !clusters.isEmpty { survey.reach(clusters.upperBound) }
    }

    private mutating func countEncryptionHeader() {
        guard let data = tables.header.extensionData(Qcow2.ExtensionType.encryption) else { return }
        if tables.header.cryptMethod != Qcow2Encryption.Method.luks.rawValue {
            survey.corruption("ERROR the header tells of LUKS keys, but of another encryption method")
        }
        let bytes = data.span.bytes
        guard let offset: UInt64 = bytes.bigEndian(at: 0), let length: UInt64 = bytes.bigEndian(at: 8) else {
            return
        }
        count("encryption header", Int(clamping: offset), Int(clamping: length))
    }
}
