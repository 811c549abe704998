#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Reads lines from standard input; on a terminal with editing, history and completion of the first word.
///
/// Keys: arrows, Home, End, Backspace, Delete, Ctrl-A/B/E/F/K/L/N/P/U/W, Tab; Ctrl-C drops the line, Ctrl-D
/// on an empty line ends the input. Used on one thread.
final class LineEditor {
    private let terminal: Terminal
    private let prompt: String
    /// What Tab completes the first word to.
    private let words: [String]
    private let isInteractive: Bool
    private var history: [[UInt8]] = []
    private var line: [UInt8] = []
    private var cursor = 0
    /// Which line of the history is shown; its count for the new one.
    private var shown = 0
    private var pending: [UInt8] = []
    private var hasEnded = false

    private static let maximumHistory = 1000

    init(_ terminal: Terminal, prompt: String, words: [String]) {
        self.terminal = terminal
        self.prompt = prompt
        self.words = words
        isInteractive = isatty(STDIN_FILENO) == 1 && terminal.outputIsTerminal
    }

    /// The next line without its end; `nil` at the end of the input.
    func next() -> String? {
        terminal.print(prompt)
        terminal.flush()
        return isInteractive ? edited() : plain()
    }

    // MARK: Without a terminal

    private func plain() -> String? {
        var bytes: [UInt8] = []
        while let byte = nextByte(), byte != 0x0A { bytes.append(byte) }
        return bytes.isEmpty && hasEnded ? nil : String(decoding: bytes, as: UTF8.self)
    }

    private func nextByte() -> UInt8? {
        if pending.isEmpty && !hasEnded { fill() }
        return pending.isEmpty ? nil : pending.removeFirst()
    }

    private func fill() {
        var buffer = [UInt8](repeating: 0, count: isInteractive ? 64 : 4096)
        var count = read(STDIN_FILENO, &buffer, buffer.count)
        while count < 0 && errno == EINTR { count = read(STDIN_FILENO, &buffer, buffer.count) }
        if count > 0 { pending += buffer[..<count] } else { hasEnded = true }
    }

    // MARK: On a terminal

    private func edited() -> String? {
        var before = termios()
        guard tcgetattr(STDIN_FILENO, &before) == 0 else { return plain() }
        var raw = before
        raw.c_lflag &= ~tcflag_t(ICANON | ECHO | ISIG | IEXTEN)
        raw.c_iflag &= ~tcflag_t(ICRNL | IXON)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &raw)
        defer { tcsetattr(STDIN_FILENO, TCSADRAIN, &before) }
        (line, cursor, shown) = ([], 0, history.count)
        while let byte = nextByte() {
            switch take(byte) {
            case .goesOn: redraw()
            case .isDone:
                terminal.print("\n")
                remember()
                return String(decoding: line, as: UTF8.self)
            case .isOver:
                terminal.print("\n")
                return nil
            }
        }
        return nil
    }

    private enum Step { case goesOn, isDone, isOver }

    private func take(_ byte: UInt8) -> Step {
        switch byte {
        case 0x0A, 0x0D: return .isDone
        case 0x03:
            terminal.print("^C\n")
            (line, cursor, shown) = ([], 0, history.count)
        case 0x04:
            if line.isEmpty { return .isOver }
            deleteForwards()
        case 0x01: cursor = 0
        case 0x02: moveLeft()
        case 0x05: cursor = line.count
        case 0x06: moveRight()
        case 0x08, 0x7F: deleteBackwards()
        case 0x09: complete()
        case 0x0B: line.removeSubrange(cursor...)
        case 0x0C: terminal.print("\u{1B}[H\u{1B}[2J")
        case 0x0E: recall(shown + 1)
        case 0x10: recall(shown - 1)
        case 0x15:
            line.removeSubrange(..<cursor)
            cursor = 0
        case 0x17: deleteWord()
        case 0x1B: takeEscape()
        case 0x00..<0x20: break
        default:
            line.insert(byte, at: cursor)
            cursor += 1
        }
        return .goesOn
    }

    /// Arrows and the like: `ESC [ LETTER`, `ESC O LETTER` or `ESC [ DIGIT ~`.
    private func takeEscape() {
        guard let second = nextByte(), second == 0x5B || second == 0x4F, let third = nextByte() else {
            return
        }
        switch third {
        case UInt8(ascii: "A"): recall(shown - 1)
        case UInt8(ascii: "B"): recall(shown + 1)
        case UInt8(ascii: "C"): moveRight()
        case UInt8(ascii: "D"): moveLeft()
        case UInt8(ascii: "H"): cursor = 0
        case UInt8(ascii: "F"): cursor = line.count
        case UInt8(ascii: "1"), UInt8(ascii: "3"), UInt8(ascii: "4"), UInt8(ascii: "7"), UInt8(ascii: "8"):
            guard nextByte() == UInt8(ascii: "~") else { return }
            if third == UInt8(ascii: "3") { return deleteForwards() }
            cursor = third == UInt8(ascii: "1") || third == UInt8(ascii: "7") ? 0 : line.count
        default: break
        }
    }

    /// The following bytes of a character in UTF-8.
    private func continues(_ index: Int) -> Bool { index < line.count && line[index] & 0xC0 == 0x80 }

    private func moveLeft() {
        if cursor > 0 { cursor -= 1 }
        while cursor > 0 && continues(cursor) { cursor -= 1 }
    }

    private func moveRight() {
        if cursor < line.count { cursor += 1 }
        while continues(cursor) { cursor += 1 }
    }

    private func deleteBackwards() {
        let end = cursor
        moveLeft()
        line.removeSubrange(cursor..<end)
    }

    private func deleteForwards() {
        let start = cursor
        moveRight()
        line.removeSubrange(start..<cursor)
        cursor = start
    }

    private func deleteWord() {
        let end = cursor
        while cursor > 0 && line[cursor - 1] == 0x20 { cursor -= 1 }
        while cursor > 0 && line[cursor - 1] != 0x20 { cursor -= 1 }
        line.removeSubrange(cursor..<end)
    }

    private func complete() {
        let typed = String(decoding: line[..<cursor], as: UTF8.self)
        guard !typed.isEmpty, !typed.contains(" ") else { return }
        let candidates = words.filter { $0.hasPrefix(typed) }
        guard candidates.count != 1 else {
            let rest = Array((candidates[0].dropFirst(typed.count) + " ").utf8)
            line.insert(contentsOf: rest, at: cursor)
            cursor += rest.count
            return
        }
        if candidates.count > 1 { terminal.print("\n" + candidates.joined(separator: "  ") + "\n") }
    }

    private func recall(_ index: Int) {
        guard index >= 0, index <= history.count else { return }
        shown = index
        line = index < history.count ? history[index] : []
        cursor = line.count
    }

    private func remember() {
        guard !line.isEmpty, history.last != line else { return }
        history.append(line)
        if history.count > Self.maximumHistory { history.removeFirst() }
    }

    private func redraw() {
        let back = line[cursor...].count { $0 & 0xC0 != 0x80 }
        let text = String(decoding: line, as: UTF8.self)
        terminal.print("\r\u{1B}[K\(prompt)\(text)" + (back > 0 ? "\u{1B}[\(back)D" : ""))
        terminal.flush()
    }
}
