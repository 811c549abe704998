/// Names for the offsets and numbers of the qcow2 specification. Offsets are in bytes.
extension Qcow2Bytes {
    public static let copied: UInt64 = 1 << 63
    public static let compressed: UInt64 = 1 << 62
    public static let zero: UInt64 = 1
    /// The bits of an L1 or L2 entry that hold an offset.
    public static let offsetMask = 0x00ff_ffff_ffff_fe00
    /// The largest offset of a cluster of 64 KiB that an entry can hold.
    public static let lastOffset: UInt64 = 0x00ff_ffff_ffff_0000

    /// Offsets of header fields.
    public enum Field {
        public static let magic = 0
        public static let version = 4
        public static let backingOffset = 8
        public static let backingSize = 16
        public static let clusterBits = 20
        public static let size = 24
        public static let crypt = 32
        public static let l1Entries = 36
        public static let l1Offset = 40
        public static let refcountOffset = 48
        public static let refcountClusters = 56
        public static let snapshotCount = 60
        public static let snapshotsOffset = 64
        public static let incompatible = 72
        public static let compatible = 80
        public static let autoclear = 88
        public static let refcountOrder = 96
        public static let headerLength = 100
        public static let compressionType = 104
        /// The first extension, behind a header of version 2.
        public static let version2Extensions = 72
        /// The first extension, behind a header of version 3 as ``Qcow2Bytes`` and the driver write it.
        public static let extensions = 112
    }

    /// Bits of the field `incompatible`.
    public enum Incompatible {
        public static let dirty: UInt64 = 1
        public static let corrupt: UInt64 = 2
        public static let dataFile: UInt64 = 4
        public static let compression: UInt64 = 8
        public static let extendedL2: UInt64 = 16
    }

    /// Bits of the field `autoclear`.
    public enum Autoclear {
        public static let bitmaps: UInt64 = 1
        public static let rawDataFile: UInt64 = 2
    }

    /// Offsets in a header extension.
    public enum Extension {
        public static let type = 0
        public static let length = 4
        public static let data = 8
        /// In the data of the bitmaps extension.
        public static let bitmapCount = 0
        public static let directorySize = 8
        public static let directoryOffset = 16
    }

    /// Types of header extensions.
    public enum ExtensionType {
        public static let backingFormat: UInt32 = 0xe279_2aca
        public static let featureNames: UInt32 = 0x6803_f857
        public static let bitmaps: UInt32 = 0x2385_2875
        public static let encryption: UInt32 = 0x0537_be77
        public static let dataFile: UInt32 = 0x4441_5441
        /// A type that no program knows.
        public static let unknown: UInt32 = 0x1234_5678
    }

    /// Offsets in an entry of the snapshot table.
    public enum Snapshot {
        public static let l1Offset = 0
        public static let l1Entries = 8
        public static let idSize = 12
        public static let nameSize = 14
        public static let stateSize = 32
        public static let extraSize = 36
        public static let extra = 40
        public static let stateSize64 = 40
        public static let diskSize = 48
        public static let instructionCount = 56
        /// The id, behind as much extra data as is known.
        public static let id = 64
    }

    /// Offsets in an entry of the bitmap directory.
    public enum Bitmap {
        public static let tableOffset = 0
        public static let tableEntries = 8
        public static let flags = 12
        public static let type = 16
        public static let granularityBits = 17
        public static let nameSize = 18
        public static let extraSize = 20
        /// The extra data, or else the name.
        public static let extra = 24
    }

    /// The clusters of a fresh image by what they hold.
    public enum Cluster {
        public static let header = 0
        public static let refcountTable = 1
        public static let refcountBlock = 2
        public static let l1 = 3
        public static let l2 = 4
        public static let data = 5
        /// One past the last.
        public static let end = 7
    }
}

extension SparseBytes {
    /// The big-endian number in `bytes` bytes. One of 64 bits whose highest is set is negative.
    public func big(at offset: Int, bytes: Int = 8) -> Int {
        read(at: offset, count: bytes).reduce(0) { $0 << 8 | Int($1) }
    }

    /// Stores a number in `bytes` bytes, the highest first.
    public mutating func putBig(_ value: some BinaryInteger, at offset: Int, bytes: Int = 8) {
        write(ImageBytes.number(value, bytes: bytes, .big), at: offset)
    }

    /// Whether a qcow2 image has one of the bits set in its field `incompatible`.
    public func hasIncompatible(_ bits: UInt64) -> Bool {
        UInt64(big(at: Qcow2Bytes.Field.incompatible)) & bits != 0
    }
}
