import CHost
import Synchronization
import SystemPackage

/// A growing file gets its space in large pieces: the file system then allocates blocks a few times instead
/// of at every write, and in one run.
///
/// The space is past the end of the file, whose length is that of the written bytes. Unused space is given
/// back when the file is closed or resized; a killed process leaves it to the file until then.
extension HostFile {
    /// How much a file must grow by writes, in bytes, before space is reserved: small images stay below this.
    private static let growthBeforeReserving = 16 << 20
    /// How much space is reserved at a time, in bytes.
    private static let reservedStep = 64 << 20

    /// The growth of the file, and the end of the reserved space, in bytes. Used only with the gate held.
    struct Growth: Sendable {
        var grownBytes = 0
        var reservedEnd = 0
        var isOff = false
    }

    /// Reserves space before a write of `offset..<end` that makes the file longer. The caller holds the gate.
    func prepareToGrow(from offset: Int, to end: Int) {
        let length = knownLength.load(ordering: .relaxed)
        guard end > length else { return }
        growth.withLock { growth in
            growth.grownBytes += end - length
            guard !growth.isOff, end > growth.reservedEnd else { return }
            // Only for appending writers; a file written at scattered offsets stays sparse.
            guard growth.grownBytes >= Self.growthBeforeReserving, offset <= length, mayReserve else {
                return
            }
            let start = max(length, growth.reservedEnd)
            let (stop, overflow) = max(end, start).addingReportingOverflow(Self.reservedStep)
            guard !overflow else { return }
            // A failure means a nearly full disk, or a file system without reserving: then the writes report
            // errors.
            growth.isOff = platter_reserve(descriptor, Int64(start), Int64(stop - start)) != 0
            growth.reservedEnd = stop
        }
    }

    /// Gives back the space past the end, before the file gets another length by other means than appending.
    func releaseReserve() {
        growth.withLock { growth in
            guard growth.reservedEnd > 0 else { return }
            growth.reservedEnd = 0
            // Setting the length that the file has frees what lies past it.
            guard let length = try? FileStatus.length(descriptor) else { return }
            try? FileStatus.setLength(descriptor, length)
        }
    }

    /// Whether no other process can change the length between reading and setting it.
    private var mayReserve: Bool {
        kind == .regular && !options.readOnly && isResizedByUsAlone
    }
}
