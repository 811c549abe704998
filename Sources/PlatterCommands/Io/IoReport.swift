import BlockCore

/// The report of a request.
struct IoReport: Sendable {
    /// `read`, `wrote`, `discard`.
    var action: String
    var offset: Int
    var count: Int
    /// The time that the request took, in nanoseconds.
    var nanoseconds: Int
    /// Whether the report is one line of numbers, for programs.
    var isForMachines = false

    private var seconds: Double { max(Double(nanoseconds) / 1e9, 1e-9) }
    private var bytesPerSecond: Double { Double(count) / seconds }

    /// The lines of the report, each with its line feed.
    var text: String {
        if isForMachines {
            let rates = [bytesPerSecond, 1 / seconds].map { HumanSize.formatted("%.3f", $0) }
            return "\(count),1,\(time(isFixed: true)),\(rates[0]),\(rates[1])\n"
        }
        return "\(action) \(count)/\(count) bytes at offset \(offset)\n"
            + "\(Self.size(Double(count))), 1 ops; \(time(isFixed: false)) "
            + "(\(Self.size(bytesPerSecond))/sec and \(HumanSize.formatted("%.4f", 1 / seconds)) ops/sec)\n"
    }

    /// Seconds with hundredths; behind hours and minutes where the time has them, or always when `isFixed`.
    private func time(isFixed: Bool) -> String {
        let hundredths = nanoseconds / 10_000_000
        let (hours, minutes) = (hundredths / 360_000, hundredths / 6000 % 60)
        let rest = "\(Self.two(hundredths / 100 % 60)).\(Self.two(hundredths % 100))"
        if isFixed || hours > 0 { return "\(hours):\(Self.two(minutes)):\(rest)" }
        return minutes > 0 ? "\(Self.two(minutes)):\(rest)" : "\(rest) sec"
    }

    private static func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }

    private static let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]

    /// A size in the largest unit of which there is at least one, with three digits after the point, or none.
    static func size(_ bytes: Double) -> String {
        var unit = -1
        var scaled = bytes
        while scaled >= 1024, unit < units.count - 1 {
            scaled /= 1024
            unit += 1
        }
        let text = HumanSize.formatted(unit < 0 ? "%f" : "%.3f", scaled)
        let point = text.lastIndex(of: ".") ?? text.endIndex
        let isWhole = text[point...].dropFirst().hasPrefix("000")
        return "\(isWhole ? text[..<point] : text[...]) \(unit < 0 ? "bytes" : units[unit])"
    }

    static func size(_ bytes: Int) -> String { size(Double(bytes)) }

    private static let digits = Array("0123456789abcdef".utf8)
    private static let rowBytes = 16

    /// Rows of sixteen bytes: the offset, the bytes in hexadecimal, and those that are letters or digits.
    static func dump(_ bytes: RawSpan, at offset: Int) -> [UInt8] {
        var text: [UInt8] = []
        text.reserveCapacity((bytes.byteCount / rowBytes + 1) * 80)
        var row = 0
        while row < bytes.byteCount {
            let count = min(rowBytes, bytes.byteCount - row)
            let place = String(offset + row, radix: 16)
            text += String(repeating: "0", count: max(0, 8 - place.count)).utf8
            text += "\(place):  ".utf8
            for index in row..<row + count {
                let byte = bytes.unsafeLoad(fromByteOffset: index, as: UInt8.self)
                text += [digits[Int(byte >> 4)], digits[Int(byte & 15)], 0x20]
            }
            text.append(0x20)
            for index in row..<row + count {
                let byte = bytes.unsafeLoad(fromByteOffset: index, as: UInt8.self)
                text.append(isAlphanumeric(byte) ? byte : 0x2E)
            }
            text.append(0x0A)
            row += count
        }
        return text
    }

    private static func isAlphanumeric(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: true
        default: false
        }
    }
}

/// Memory for one request: aligned for direct I/O, or misaligned on purpose.
final class IoBuffer: Sendable {
    /// The memory; the bytes of the request are those of ``range``.
    let storage: AlignedBuffer
    let range: Range<Int>

    private static let skewBytes = 16

    init(count: Int, misaligned: Bool) {
        let skew = misaligned ? Self.skewBytes : 0
        storage = AlignedBuffer(count: count + skew)
        range = skew..<skew + count
    }

    var count: Int { range.count }

    func fill(with byte: UInt8) {
        let memory = storage
        var bytes = memory.mutableBytes(range)
        bytes.fill(byte)
    }

    /// Whether all of `part` holds `byte`.
    func holds(_ byte: UInt8, in part: Range<Int>) -> Bool {
        let memory = storage
        let part = memory.bytes(range.lowerBound + part.lowerBound..<range.lowerBound + part.upperBound)
        guard part.byteCount > 0 else { return true }
        guard part.unsafeLoad(fromByteOffset: 0, as: UInt8.self) == byte else { return false }
        return part.extracting(1..<part.byteCount).hasSameBytes(as: part.extracting(0..<part.byteCount - 1))
    }
}
