import CHost
import Synchronization
import SystemPackage

/// A file that keeps growing gets its space in large pieces: the file system then has to find blocks a few
/// times instead of at every write, and lays them out in one run.
///
/// The space lies past the end of the file, whose length stays what was written. What is left over is given
/// back when the file is closed or resized; after a kill it stays with the file, unused, until then.
extension HostFile {
    /// How much a file must have grown by writes before it gets space ahead, in bytes: small images do not.
    private static let growthBeforeReserving = 16 << 20
    /// How much space is taken at a time, in bytes.
    private static let reservedStep = 64 << 20

    /// Where the space taken ahead ends, and how much the file has grown. Used by whoever holds the gate.
    struct Growth: Sendable {
        var grownBytes = 0
        var reservedEnd = 0
        var isOff = false
    }

    /// To be called with the gate held, before a write of `offset..<end` that makes the file longer.
    func prepareToGrow(from offset: Int, to end: Int) {
        let length = knownLength.load(ordering: .relaxed)
        guard end > length else { return }
        growth.withLock { growth in
            growth.grownBytes += end - length
            guard !growth.isOff, end > growth.reservedEnd else { return }
            // Only who appends; a file that is filled here and there stays sparse.
            guard growth.grownBytes >= Self.growthBeforeReserving, offset <= length, mayReserve else {
                return
            }
            let start = max(length, growth.reservedEnd)
            let (stop, overflow) = max(end, start).addingReportingOverflow(Self.reservedStep)
            guard !overflow else { return }
            // A disk that is nearly full, or a file system without this: the writes themselves will tell.
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

    /// Nobody else may change the length between our looking at it and setting it.
    private var mayReserve: Bool {
        kind == .regular && !options.readOnly && isResizedByUsAlone
    }
}
