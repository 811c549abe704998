/// A byte's place on the virtual disk. A type of its own, so that it is not taken for a place in the file.
struct GuestOffset: Hashable, Comparable, Strideable, Sendable {
    /// From the start of the disk, in bytes.
    var bytes: Int

    @inline(__always) init(_ bytes: Int) { self.bytes = bytes }
    @inline(__always) static func < (left: Self, right: Self) -> Bool { left.bytes < right.bytes }
    @inline(__always) static func + (left: Self, right: Int) -> Self { Self(left.bytes + right) }
    @inline(__always) static func - (left: Self, right: Int) -> Self { Self(left.bytes - right) }
    @inline(__always) static func - (left: Self, right: Self) -> Int { left.bytes - right.bytes }
    @inline(__always) static func += (left: inout Self, right: Int) { left.bytes += right }
    @inline(__always) func advanced(by count: Int) -> Self { self + count }
    @inline(__always) func distance(to other: Self) -> Int { other - self }
}

/// A byte's place in the file that holds it.
struct HostOffset: Hashable, Comparable, Strideable, Sendable {
    /// From the start of the file, in bytes.
    var bytes: Int
    @inline(__always) static var zero: Self { Self(0) }

    @inline(__always) init(_ bytes: Int) { self.bytes = bytes }
    @inline(__always) static func < (left: Self, right: Self) -> Bool { left.bytes < right.bytes }
    @inline(__always) static func + (left: Self, right: Int) -> Self { Self(left.bytes + right) }
    @inline(__always) static func - (left: Self, right: Int) -> Self { Self(left.bytes - right) }
    @inline(__always) static func - (left: Self, right: Self) -> Int { left.bytes - right.bytes }
    @inline(__always) static func += (left: inout Self, right: Int) { left.bytes += right }
    @inline(__always) func advanced(by count: Int) -> Self { self + count }
    @inline(__always) func distance(to other: Self) -> Int { other - self }
}

/// A cluster of the file. The layout converts it from an offset and back: it knows the size of a cluster.
struct HostCluster: Hashable, Comparable, Strideable, Sendable {
    /// The cluster's number, counted from the start of the file.
    var index: Int

    @inline(__always) init(_ index: Int) { self.index = index }
    @inline(__always) static func < (left: Self, right: Self) -> Bool { left.index < right.index }
    @inline(__always) static func + (left: Self, right: Int) -> Self { Self(left.index + right) }
    @inline(__always) static func - (left: Self, right: Int) -> Self { Self(left.index - right) }
    @inline(__always) static func - (left: Self, right: Self) -> Int { left.index - right.index }
    @inline(__always) static func += (left: inout Self, right: Int) { left.index += right }
    @inline(__always) func advanced(by count: Int) -> Self { self + count }
    @inline(__always) func distance(to other: Self) -> Int { other - self }
}

// In messages they are the numbers that they hold.
extension GuestOffset: CustomStringConvertible { var description: String { "\(bytes)" } }
extension HostOffset: CustomStringConvertible { var description: String { "\(bytes)" } }
extension HostCluster: CustomStringConvertible { var description: String { "\(index)" } }
