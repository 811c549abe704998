import BlockCore

/// Parallels' expandable disk images (`.hds`), of both kinds.
///
/// Lock order: the node's range, then this driver's lock, then the file's own. Data is read and written
/// outside the lock. An image names no backing file; the caller may name one (`backing.file.filename`) that
/// provides the unallocated clusters.
public final class ParallelsDriver: SessionFormat {
    public static let name = "parallels"

    let clusterBytes: Int
    let session: Session<ParallelsState>

    private init(_ state: ParallelsState) {
        clusterBytes = state.header.clusterBytes
        session = Session(state)
    }

    public static func probe(_ header: RawSpan, filename: String) -> Int {
        ParallelsHeader.kind(header) == nil ? 0 : 100
    }

    /// - Throws: `wrongFormat`, `unsupported`, `corrupt`, `limit`, `invalidArgument`; `io`.
    public static func open(
        _ request: OpenRequest, options: inout OptionTree
    ) throws(BlockError) -> ParallelsDriver {
        do throws(BlockError) {
            let settings = request.settings
            let growth = try ParallelsGrowth.take(&options)
            var state = try ParallelsState(file: request.file, isReadOnly: settings.readOnly)
            state.growth = growth
            if !settings.readOnly && !settings.forCheck { try state.prepareForWriting() }
            return ParallelsDriver(state)
        } catch {
            throw error.concerning(request.file.filename)
        }
    }

    public var writeGranularity: Int { clusterBytes }
    /// Zeroed clusters may be holes of the file.
    public var dataMayBeHoles: Bool { true }
    public var mapStyle: MapStyle { .unitsAreWhole }

    /// - Throws: nothing.
    public func describe() throws(BlockError) -> FormatInfo {
        let (isDirty, kind) = session.withLock { ($0.isUnclean, $0.header.kind) }
        var fields = [InfoField("magic", .text(kind.rawValue))]
        let list = try bitmaps().map { bitmap in
            InfoValue.object([
                InfoField("flags", .list(bitmap.isInconsistent ? [.text("in-use")] : [.text("auto")])),
                InfoField("name", .text(bitmap.name)), InfoField("granularity", .number(bitmap.granularity)),
            ])
        }
        if !list.isEmpty { fields.append(InfoField("bitmaps", .list(list))) }
        return FormatInfo(isDirty: isDirty, specific: fields)
    }
}
