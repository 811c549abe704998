import BlockCore

/// A line that is being edited, as the bytes of its UTF-8, and the position of the cursor in it.
struct LineBuffer {
    private var bytes: [UInt8] = []
    private var cursor = 0

    var isEmpty: Bool { bytes.isEmpty }
    var text: String { String(raw: bytes) }
    var textBeforeCursor: String { String(raw: bytes[..<cursor]) }

    mutating func insert(_ new: [UInt8]) {
        bytes.insert(contentsOf: new, at: cursor)
        cursor += new.count
    }

    // MARK: Moving

    mutating func moveToStart() { cursor = 0 }
    mutating func moveToEnd() { cursor = bytes.count }

    mutating func moveLeft() {
        if cursor > 0 { cursor -= 1 }
        while cursor > 0 && isInsideCharacter { cursor -= 1 }
    }

    mutating func moveRight() {
        if cursor < bytes.count { cursor += 1 }
        while isInsideCharacter { cursor += 1 }
    }

    mutating func moveWordLeft() {
        while cursor > 0 && bytes[cursor - 1] == 0x20 { cursor -= 1 }
        while cursor > 0 && bytes[cursor - 1] != 0x20 { cursor -= 1 }
    }

    mutating func moveWordRight() {
        while cursor < bytes.count && bytes[cursor] == 0x20 { cursor += 1 }
        while cursor < bytes.count && bytes[cursor] != 0x20 { cursor += 1 }
    }

    /// Whether the byte continues a character of UTF-8.
    private var isInsideCharacter: Bool { cursor < bytes.count && bytes[cursor] & 0xC0 == 0x80 }

    // MARK: Deleting

    mutating func deleteBackwards() { delete { $0.moveLeft() } }
    mutating func deleteForwards() { delete { $0.moveRight() } }
    mutating func deleteWord() { delete { $0.moveWordLeft() } }
    mutating func deleteToStart() { delete { $0.moveToStart() } }
    mutating func deleteToEnd() { delete { $0.moveToEnd() } }

    /// Deletes the bytes that a movement of the cursor passes.
    private mutating func delete(_ move: (inout LineBuffer) -> Void) {
        let start = cursor
        move(&self)
        let end = cursor
        bytes.removeSubrange(min(start, end)..<max(start, end))
        cursor = min(start, end)
    }

    // MARK: Showing

    /// The part of the line that fits into so many columns of a terminal, and the cursor's column in it. The
    /// part always contains the cursor; it starts at multiples of half the columns.
    func window(columns: Int) -> (text: String, cursor: Int) {
        let before = textBeforeCursor.unicodeScalars.map(Self.shown)
        let after = String(raw: bytes[cursor...]).unicodeScalars.map(Self.shown)
        let column = Self.width(before)
        let last = max(0, columns - 1)
        let step = max(1, last / 2)
        let hidden = column <= last ? 0 : (column - last).roundedUp(to: step) ?? 0
        var text = String.UnicodeScalarView()
        var place = 0
        for scalar in before + after {
            let width = Self.width(scalar)
            if place >= hidden && place + width <= hidden + columns {
                text.append(scalar)
            } else if place < hidden && place + width > hidden {
                // The left half of a wide character is hidden.
                text.append(" ")
            }
            place += width
        }
        return (String(text), column - hidden)
    }

    /// Shows control characters as one column each, so that no character moves the terminal's cursor
    /// elsewhere.
    private static func shown(_ scalar: Unicode.Scalar) -> Unicode.Scalar {
        scalar.properties.generalCategory == .control || RawText.byte(of: scalar) != nil ? "\u{FFFD}" : scalar
    }

    private static func width(_ scalars: [Unicode.Scalar]) -> Int { scalars.reduce(0) { $0 + width($1) } }

    /// The number of columns of a character: two for East Asian characters and pictures, none for combining
    /// marks.
    private static func width(_ scalar: Unicode.Scalar) -> Int {
        if scalar.isASCII { return 1 }
        switch scalar.properties.generalCategory {
        case .nonspacingMark, .enclosingMark, .format: return 0
        default: return wide.contains { $0.contains(scalar.value) } ? 2 : 1
        }
    }

    private static let wide: [ClosedRange<UInt32>] = [
        0x1100...0x115F, 0x2E80...0x303E, 0x3041...0xA4CF, 0xAC00...0xD7A3, 0xF900...0xFAFF,
        0xFE30...0xFE6F, 0xFF00...0xFF60, 0xFFE0...0xFFE6, 0x1F300...0x1F64F, 0x1F900...0x1F9FF,
        0x20000...0x3FFFD,
    ]
}
