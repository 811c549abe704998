/// A step of a driver's work at which a test may stop a request or make it fail.
///
/// Drivers emit events through the node of their file, just before the step. The storage below, or a filter
/// over it, may listen (``MetadataEventListener``). The raw values are QEMU's tags of the same steps.
public enum MetadataEvent: String, Sendable, CaseIterable {
    /// An entry of the active L1 table is written.
    case l1Update = "l1_update"
    /// A larger L1 table is allocated, is written, and becomes the active one.
    case l1GrowAllocate = "l1_grow_alloc_table"
    case l1GrowWrite = "l1_grow_write_table"
    case l1GrowActivate = "l1_grow_activate_table"
    /// L1 entries that a smaller disk does not need are cleared, then their L2 tables are freed.
    case l1ShrinkWrite = "l1_shrink_write_table"
    case l1ShrinkFree = "l1_shrink_free_l2_clusters"
    /// A part of an L2 table is read.
    case l2Load = "l2_load"
    /// Changed parts of L2 tables are written.
    case l2Update = "l2_update"
    /// The entry of a compressed cluster is set.
    case l2UpdateCompressed = "l2_update_compressed"
    /// An L2 table that a snapshot shares is read for its copy.
    case l2AllocateCopyRead = "l2_alloc_cow_read"
    /// A new L2 table is written.
    case l2AllocateWrite = "l2_alloc_write"
    /// Guest data is read from the file, or from the backing file.
    case readData = "read_aio"
    case readBacking = "read_backing_aio"
    /// Saved machine state is read, or written.
    case stateLoad = "vmstate_load"
    case stateSave = "vmstate_save"
    /// A compressed cluster is read.
    case readCompressed = "read_compressed"
    /// Guest data is written, plain or compressed.
    case writeData = "write_aio"
    case writeCompressed = "write_compressed"
    /// The rest of a new cluster is read, or written.
    case copyRead = "cow_read"
    case copyWrite = "cow_write"
    /// Bytes read from the backing file are stored by copy-on-read.
    case copyOnReadWrite = "cor_write"
    /// The refcount table is read, is moved to a larger place, or has changed entries written.
    case refcountTableLoad = "reftable_load"
    case refcountTableGrow = "reftable_grow"
    case refcountTableUpdate = "reftable_update"
    /// A part of a refcount block is read.
    case refcountBlockLoad = "refblock_load"
    /// Changed parts of refcount blocks are written.
    case refcountBlockUpdate = "refblock_update_part"
    /// A new refcount block is allocated, is written, and gets its entry in the table.
    case refcountBlockAllocate = "refblock_alloc"
    case refcountBlockWrite = "refblock_alloc_write"
    case refcountBlockHookup = "refblock_alloc_hookup"
    /// For a larger refcount table, the blocks are written, then the table, then the header that points to
    /// it.
    case refcountGrowWriteBlocks = "refblock_alloc_write_blocks"
    case refcountGrowWriteTable = "refblock_alloc_write_table"
    case refcountGrowSwitch = "refblock_alloc_switch_table"
    /// Clusters are allocated, bytes for compressed data are allocated, or clusters lose a reference.
    case clusterAllocate = "cluster_alloc"
    case clusterAllocateBytes = "cluster_alloc_bytes"
    case clusterFree = "cluster_free"
    /// A flush begins by writing the cached tables to the file, or makes the file durable.
    case flushToSystem = "flush_to_os"
    case flushToDisk = "flush_to_disk"
    /// An image is about to be emptied.
    case emptyPrepare = "empty_image_prepare"
    /// A new cluster gets its space, but only a part of it is written.
    case clusterAllocateSpace = "cluster_alloc_space"
    /// The storage reads the block in which a write begins or ends in the middle, or has read it.
    case storageMergeHead = "pwritev_rmw_head"
    case storageMergedHead = "pwritev_rmw_after_head"
    case storageMergeTail = "pwritev_rmw_tail"
    case storageMergedTail = "pwritev_rmw_after_tail"
    /// No step: emitted once, when the storage was opened.
    case none
    /// No driver has this step, nor does QEMU any more, but rules may name it.
    case refcountBlockRewrite = "refblock_update"
    /// The storage itself writes, has written, or writes zeroes.
    case storageWrite = "pwritev"
    case storageWritten = "pwritev_done"
    case storageZero = "pwritev_zero"
}

/// Storage or a filter that gets the events of the driver above it.
///
/// It may block the caller, or make later calls fail.
public protocol MetadataEventListener: AnyObject, Sendable {
    /// Called on the thread of the request, sometimes with the driver's lock held, so it must call no node.
    func hear(_ event: MetadataEvent)
}

extension BlockNode {
    /// Passes an event to the storage or the filter of this node.
    ///
    /// Costs next to nothing without a listener.
    @inline(__always)
    public func emit(_ event: MetadataEvent) {
        if let eventListener { eventListener.hear(event) }
    }
}
