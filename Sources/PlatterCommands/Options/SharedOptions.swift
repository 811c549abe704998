/// Options that several commands have.
extension OptionReader {
    mutating func format(of what: String = "the image") -> String? {
        value("f", "format", "FMT", "Format of \(what); without it, the format is guessed")
    }

    mutating func imageOpts() -> Bool {
        flag(nil, "image-opts", "File names are lists of open options: driver=FMT,file.filename=NAME,...")
    }

    mutating func cache(_ short: Character, _ long: String = "cache", of what: String) -> String? {
        value(
            short, long, "MODE",
            "Cache mode of \(what): none, writeback, writethrough, directsync or unsafe")
    }

    mutating func aio() -> String? {
        value(
            "i", "aio", "threads|native|io_uring",
            "How requests reach the file: system calls (the default), Linux AIO (past the page cache only) "
                + "or io_uring")
    }

    mutating func forceShare(of what: String = "the image") -> Bool {
        flag("U", "force-share", "Open \(what) even while another program writes to it")
    }

    mutating func rateLimit(_ verb: String = "Write") -> String? {
        value("r", "rate-limit", "RATE", "\(verb) at most so many bytes a second")
    }

    mutating func output() -> String? {
        value(nil, "output", "human|json", "Text for people (the default) or JSON")
    }

    mutating func progress() -> Bool { flag("p", "progress", "Show how far the work is") }

    mutating func quiet(_ help: String = "Print errors only") -> Bool { flag("q", "quiet", help) }

    mutating func version() -> Bool { flag("V", "version", "Show the version") }
}

/// The options of every command, behind its own.
struct UniversalOptions {
    /// The definitions of `--object`, in the order given.
    let objects: [String]

    init(_ options: inout OptionReader) {
        objects = options.values(
            nil, "object", "OBJDEF",
            "Define an object that open options name: secret,id=ID,data=TEXT or file=NAME, or "
                + "throttle-group,id=ID,limits.bps-total=N,...")
        options.help()
    }
}
