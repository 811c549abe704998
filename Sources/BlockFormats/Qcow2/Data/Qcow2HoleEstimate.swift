import BlockCore

/// Estimates whether the file has holes behind data, as after a preallocation: then clearly more clusters
/// have refcounts than the file system has allocated.
///
/// Each step visits a few refcounts, so that the tables' lock is held briefly.
struct Qcow2HoleEstimate {
    /// The number of refcounts after which the answer is "yes": the safe one, which costs only time.
    static let maximumLooks = 1 << 20
    static let looksAtOnce = 1 << 14

    private let threshold: Int
    private let end: HostCluster
    private var cluster = HostCluster(0)
    private var counted = 0
    private var looks = 0

    /// `nil` where the answer is no: the file has no holes, or its file system does not count its space.
    init?(_ tables: Qcow2State) throws(BlockError) {
        guard let allocated = tables.file.allocatedSize() else { return nil }
        let real = allocated >> tables.layout.clusterBits
        threshold = max(real + real / 9, real + 2)
        end = tables.layout.endCluster(ofFile: try tables.file.length())
        guard end.index >= threshold else { return nil }
    }

    /// Visits the next refcounts.
    ///
    /// - Returns: the answer, once it is known.
    mutating func look(at store: Qcow2Allocator) throws(BlockError) -> Bool? {
        let layout = store.layout
        for _ in 0..<Self.looksAtOnce {
            if counted >= threshold || looks >= Self.maximumLooks { return true }
            if cluster >= end { return false }
            looks += 1
            guard store.hasBlock(for: cluster) else {
                cluster = layout.firstCluster(ofBlock: layout.refcountBlock(of: cluster) + 1)
                continue
            }
            if try store.refcount(of: cluster) > 0 { counted += 1 }
            cluster += 1
        }
        return nil
    }
}
