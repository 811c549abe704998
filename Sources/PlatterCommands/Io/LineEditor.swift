import BlockCore
import BlockProtocols

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Reads lines from standard input; on a terminal with editing, history and completion of the first word.
///
/// Keys: arrows, Home, End, Backspace, Delete, Ctrl with arrows, A/B/E/F/K/L/N/P/U/W, Tab; Ctrl-C drops the
/// line, Ctrl-Z stops the program, Ctrl-D on an empty line ends the input. A line that is wider than the
/// terminal moves sideways. A terminal that cannot move its cursor has its own editing. Used on one thread.
final class LineEditor {
    private let terminal: Terminal
    private let prompt: String
    /// The words to which Tab completes the first word.
    private let words: [String]
    private let isInteractive: Bool
    private var history: [LineBuffer] = []
    private var line = LineBuffer()
    /// The new line, while one of the history is shown.
    private var draft = LineBuffer()
    /// The index of the line of the history that is shown; the number of lines for the new one.
    private var shown = 0
    private var pending: [UInt8] = []
    private var hasEnded = false

    private static let maximumHistory = 1000
    /// The prompt is left out where fewer columns than this would be left beside it.
    private static let leastColumns = 10
    private static let usualColumns = 80

    init(_ terminal: Terminal, prompt: String, words: [String]) {
        self.terminal = terminal
        self.prompt = prompt
        self.words = words
        isInteractive =
            isatty(STDIN_FILENO) == 1 && terminal.outputIsTerminal && Self.terminalMovesItsCursor
    }

    private static var terminalMovesItsCursor: Bool {
        guard let name = HostEnvironment.value("TERM") else { return false }
        return name != "dumb"
    }

    /// The next line without its end; `nil` at the end of the input.
    func next() -> String? {
        if isInteractive { return edited() }
        terminal.steer(prompt, isAnswer: true)
        terminal.flush()
        return plain()
    }

    // MARK: Without a terminal

    private func plain() -> String? {
        var bytes: [UInt8] = []
        while let byte = nextByte(), byte != 0x0A { bytes.append(byte) }
        if bytes.isEmpty && hasEnded { return nil }
        // As in C, a zero byte ends a line.
        return String(raw: bytes.prefix { $0 != 0 })
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
        let guardian = TerminalGuard(restoring: before)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &raw)
        defer {
            tcsetattr(STDIN_FILENO, TCSADRAIN, &before)
            guardian.end()
        }
        startLine()
        redraw()
        while let byte = nextByte() {
            switch take(byte) {
            case .goesOn: break
            case .stops:
                tcsetattr(STDIN_FILENO, TCSADRAIN, &before)
                kill(0, SIGTSTP)
                tcsetattr(STDIN_FILENO, TCSADRAIN, &raw)
            case .isDone:
                line.moveToEnd()
                redraw()
                terminal.print("\n")
                remember()
                return line.text
            case .isOver:
                terminal.print("\n")
                return nil
            }
            // Of pasted text only the end is shown.
            if pending.isEmpty { redraw() }
        }
        return nil
    }

    private func startLine() { (line, draft, shown) = (LineBuffer(), LineBuffer(), history.count) }

    private enum Step { case goesOn, stops, isDone, isOver }

    private func take(_ byte: UInt8) -> Step {
        switch byte {
        case 0x0A, 0x0D: return .isDone
        case 0x03:
            terminal.print("^C\n")
            startLine()
        case 0x04:
            if line.isEmpty { return .isOver }
            line.deleteForwards()
        case 0x01: line.moveToStart()
        case 0x02: line.moveLeft()
        case 0x05: line.moveToEnd()
        case 0x06: line.moveRight()
        case 0x08, 0x7F: line.deleteBackwards()
        case 0x09: complete()
        case 0x0B: line.deleteToEnd()
        case 0x0C: terminal.steer("\u{1B}[H\u{1B}[2J")
        case 0x0E: recall(shown + 1)
        case 0x10: recall(shown - 1)
        case 0x15: line.deleteToStart()
        case 0x17: line.deleteWord()
        case 0x1A: return .stops
        case 0x1B: takeEscape()
        case 0x00..<0x20: break
        default: line.insert([byte])
        }
        return .goesOn
    }

    /// Reads a whole control sequence, `ESC [ PARAMETERS LETTER` or `ESC O LETTER`, known or not.
    private func takeEscape() {
        guard let second = nextByte() else { return }
        guard second == UInt8(ascii: "[") || second == UInt8(ascii: "O") else {
            // The byte is a key of its own, typed after Escape.
            pending.insert(second, at: 0)
            return
        }
        var parameters: [UInt8] = []
        while let byte = nextByte() {
            if (0x40...0x7E).contains(byte) {
                return act(on: byte, String(decoding: parameters, as: UTF8.self))
            }
            guard (0x20..<0x40).contains(byte) else { return }
            parameters.append(byte)
        }
    }

    private func act(on final: UInt8, _ parameters: String) {
        // With Ctrl, and with Alt, arrows move by words.
        let isByWord = parameters.hasSuffix(";5") || parameters.hasSuffix(";3")
        switch (Character(UnicodeScalar(final)), parameters) {
        case ("A", _): recall(shown - 1)
        case ("B", _): recall(shown + 1)
        case ("C", _): isByWord ? line.moveWordRight() : line.moveRight()
        case ("D", _): isByWord ? line.moveWordLeft() : line.moveLeft()
        case ("H", _), ("~", "1"), ("~", "7"): line.moveToStart()
        case ("F", _), ("~", "4"), ("~", "8"): line.moveToEnd()
        case ("~", "3"): line.deleteForwards()
        default: break
        }
    }

    private func complete() {
        let typed = line.textBeforeCursor
        guard !typed.isEmpty, !typed.contains(" ") else { return }
        let candidates = words.filter { $0.hasPrefix(typed) }
        guard candidates.count != 1 else {
            return line.insert(Array((candidates[0].dropFirst(typed.count) + " ").utf8))
        }
        if candidates.count > 1 { terminal.print("\n" + candidates.joined(separator: "  ") + "\n") }
    }

    private func recall(_ index: Int) {
        guard index >= 0, index <= history.count, index != shown else { return }
        if shown == history.count { draft = line }
        shown = index
        line = index < history.count ? history[index] : draft
        line.moveToEnd()
    }

    private func remember() {
        guard !line.isEmpty, history.last?.text != line.text else { return }
        history.append(line)
        if history.count > Self.maximumHistory { history.removeFirst() }
    }

    // MARK: Showing

    /// Shows the line on one row of the terminal. The last column stays free, since a character there may
    /// wrap.
    private func redraw() {
        let columns = max(1, Self.columns - 1)
        let hasRoom = columns >= prompt.count + Self.leastColumns
        let start = hasRoom ? prompt.count : 0
        let part = line.window(columns: columns - start)
        let cursor = start + part.cursor
        terminal.steer("\r" + (hasRoom ? prompt : "") + part.text + "\u{1B}[K\r")
        if cursor > 0 { terminal.steer("\u{1B}[\(cursor)C") }
        terminal.flush()
    }

    private static var columns: Int {
        var size = winsize()
        guard ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else { return usualColumns }
        return Int(size.ws_col)
    }
}
