import BlockCore
import Synchronization

/// The bytes of a file, or a window of them, without any metadata.
///
/// Options: `offset` (bytes to skip) and `size` (bytes to show, a multiple of 512). A file whose length is
/// not a multiple of 512 is shown rounded up; the rest reads as zeroes. Thread-safe.
public final class RawDriver: FormatDriver {
    public static let name = "raw"
    public static let optionsInName = ["offset", "size"]
    public static let traits: FormatTraits = .plainBytes

    /// Sizes are shown in whole sectors of this many bytes.
    static let sectorBytes = 512

    private let file: BlockNode
    private let windowOffset: Int
    private let hasFixedSize: Bool
    private let guardsEnds: Bool
    private let registry: DriverRegistry
    private let size: Mutex<Int>

    private init(_ request: OpenRequest, windowOffset: Int, size: Int, hasFixedSize: Bool) {
        file = request.file
        guardsEnds = request.wasProbed
        registry = request.registry
        self.windowOffset = windowOffset
        self.hasFixedSize = hasFixedSize
        self.size = Mutex(size)
    }

    /// Matches any file, with the lowest score.
    public static func probe(_ header: RawSpan, filename: String) -> Int { 1 }

    /// - Throws: `invalidArgument` for a window outside the file; `limit`, `io`.
    public static func open(
        _ request: OpenRequest, options: inout OptionTree
    ) throws(BlockError) -> RawDriver {
        let exact = try request.file.length()
        let length = exact.roundedUp(to: sectorBytes) ?? exact
        let offset = try options.takeSize("offset") ?? 0
        let stated = try options.takeSize("size")
        guard offset <= length else {
            throw BlockError(
                .invalidArgument,
                "Offset (\(offset)) cannot be greater than size of the containing file (\(length))",
                path: request.file.filename)
        }
        if let stated, stated > length - offset {
            throw BlockError(
                .invalidArgument,
                "The sum of offset (\(offset)) and size (\(stated)) has to be smaller or equal to the "
                    + " actual size of the containing file (\(length))", path: request.file.filename)
        }
        if let stated, stated % sectorBytes != 0 {
            throw BlockError(
                .invalidArgument, "Specified size is not multiple of \(sectorBytes)",
                path: request.file.filename)
        }
        let size = stated ?? max(0, exact - offset)
        guard let rounded = size.roundedUp(to: sectorBytes) else {
            throw BlockError(.limit, "The file is too large", path: request.file.filename)
        }
        return RawDriver(
            request, windowOffset: offset, size: stated ?? rounded, hasFixedSize: stated != nil)
    }

    public var virtualSize: Int { size.withLock { $0 } }
    public var writeGranularity: Int { 1 }
    public var dataMayBeHoles: Bool { true }
    public var isTransparent: Bool { true }
    public func shortFileRule(ofChild child: Int) -> ShortFileRule { .zeroes }
    /// - Throws: nothing.
    public func mayBeCut() throws(BlockError) -> Bool { false }

    /// - Throws: nothing.
    public func extent(at offset: Int, limit: Int) throws(BlockError) -> Extent {
        Extent(.data(hostOffset: windowOffset + offset), length: limit)
    }

    /// - Throws: nothing.
    public func grant(_ guest: Range<Int>, over backingEnd: Int) throws(BlockError) -> WriteGrant {
        var grant = WriteGrant(inPlace: guest, at: windowOffset + guest.lowerBound, in: file)
        // With guarded ends, ``storeEncoded(_:for:at:)`` inspects the bytes first.
        if guardsEnds { grant.form = .encrypted }
        return grant
    }

    /// - Throws: `denied` for bytes that would change the probed format; `io`, `noSpace`.
    public func storeEncoded(
        _ bytes: RawSpan, for grant: WriteGrant, at guest: Int
    ) throws(BlockError) {
        try checkFirstSector(bytes, at: guest)
        try checkTail(bytes, at: guest)
        try file.write(bytes, at: windowOffset + guest)
    }

    /// - Throws: `io`, `noSpace`.
    public func flush() throws(BlockError) { try file.flush() }
    /// - Throws: nothing.
    public func close() throws(BlockError) {}
    /// - Throws: nothing.
    public func describe() throws(BlockError) -> FormatInfo { FormatInfo() }

    /// A guest whose disk was probed as raw must not turn it into another format: the next probe would open
    /// the file by the guest's header.
    ///
    /// - Throws: `denied`, `io`.
    private func checkFirstSector(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        guard guardsEnds, offset < Self.sectorBytes, bytes.byteCount > 0 else { return }
        var sector = [UInt8](repeating: 0, count: Self.sectorBytes)
        if offset > 0 || bytes.byteCount < Self.sectorBytes {
            sector = try file.readBytes(at: windowOffset, count: Self.sectorBytes)
        }
        for index in 0..<min(bytes.byteCount, Self.sectorBytes - offset) {
            sector[offset + index] = bytes.unsafeLoad(fromByteOffset: index, as: UInt8.self)
        }
        let format = registry.probe(sector.span.bytes, filename: file.filename)
        if let other = format?.name, other != Self.name {
            throw BlockError(
                .denied,
                "Writing a \(other) header to a disk that was probed as raw is not allowed",
                path: file.filename, offset: offset)
        }
    }
}

extension RawDriver {
    /// As ``checkFirstSector(_:at:)``, for formats that are recognised by the end of the file.
    private func checkTail(_ bytes: RawSpan, at offset: Int) throws(BlockError) {
        let reach = DriverRegistry.probeTailBytes
        // The size may be rounded up by less than a sector.
        guard guardsEnds, bytes.byteCount > virtualSize - offset - reach - Self.sectorBytes else { return }
        let length = max(try file.length(), windowOffset + offset + bytes.byteCount)
        let start = max(0, length - reach)
        var tail = try file.readBytes(at: start, count: length - start)
        for index in tail.indices {
            let place = start + index - windowOffset - offset
            guard place >= 0, place < bytes.byteCount else { continue }
            tail[index] = bytes.unsafeLoad(fromByteOffset: place, as: UInt8.self)
        }
        guard let format = registry.probe(tail: tail.span.bytes, filename: file.filename) else { return }
        throw BlockError(
            .denied,
            "Writing the end of a \(format.name) image to a disk that was probed as raw is not allowed",
            path: file.filename, offset: offset)
    }
}

extension RawDriver: Resizable {
    /// - Throws: `unsupported` for a fixed size or the preallocation; `limit`, `noSpace`, `io`.
    public func resize(
        to virtualSize: Int, preallocation: Preallocation, guest: GuestAccess
    ) throws(BlockError) {
        guard !hasFixedSize else {
            throw BlockError(.unsupported, "Cannot resize fixed-size raw disks", path: file.filename)
        }
        guard virtualSize <= Int.max - windowOffset else {
            throw BlockError(.limit, "Disk size too large for the chosen offset", path: file.filename)
        }
        try file.resize(to: windowOffset + virtualSize, preallocation: preallocation)
        try file.flush()
        size.withLock { $0 = virtualSize }
    }
}

extension RawDriver: Clearing {
    public var zeroGranularity: Int { 1 }
    public var discardGranularity: Int { 1 }

    /// - Throws: `denied` for zeroes that would change the probed format; `io`.
    public func clear(
        _ range: Range<Int>, _ mode: ClearMode, over backingEnd: Int
    ) throws(BlockError) -> ClearStep {
        if guardsEnds, mode != .discard, range.lowerBound < Self.sectorBytes {
            let part = min(range.count, Self.sectorBytes - range.lowerBound)
            try checkFirstSector([UInt8](repeating: 0, count: part).span.bytes, at: range.lowerBound)
        }
        let grant = WriteGrant(inPlace: range, at: windowOffset + range.lowerBound, in: file)
        return ClearStep(mode == .discard ? .discard(grant) : .zero(grant), length: range.count)
    }
}

extension RawDriver: SpaceSharing {
    /// With guarded ends, bytes must be written, because they are inspected.
    public var sharingChild: Int? { guardsEnds ? nil : 0 }
}

extension RawDriver: Measurable {
    public static var createOptions: [CreateOption] {
        [CreateOption(.size, .size, help: "Virtual disk size")]
    }

    /// - Throws: nothing.
    public static func reservesSpace(_ options: CreateOptions) throws(BlockError) -> Bool { true }

    /// - Throws: `invalidArgument`; `io`, `noSpace`, `exists`.
    public static func create(_ options: CreateOptions, in context: CreateContext) throws(BlockError) {
        let size = options.integer(.size) ?? 0
        let rounded = size.roundedUp(to: sectorBytes) ?? size
        let preallocation = try options.preallocation(allowed: [.off, .falloc, .full])
        try context.createFile(size: rounded, preallocation: preallocation).close()
    }

    /// - Throws: nothing.
    public static func measure(
        _ options: CreateOptions, virtualSize: Int, source: BlockNode?
    ) throws(BlockError) -> MeasuredSize {
        let size = virtualSize.roundedUp(to: sectorBytes) ?? virtualSize
        return MeasuredSize(required: size, fullyAllocated: size)
    }
}
