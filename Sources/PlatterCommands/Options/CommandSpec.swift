/// One option of a command, as getopt, the help text and the man page know it.
struct OptionSpec: Sendable {
    /// The letter after one dash.
    var short: Character?
    /// The name after two dashes.
    var long: String?
    /// What stands for the value in the help text; `nil` for an option without one.
    var value: String?
    /// A sentence for the help text.
    var help: String
    /// Letters by which older releases of qemu-img knew it; taken, not shown.
    var olderShorts: [Character]
    /// Why it is refused, for what belongs to later work.
    var refusal: String?
    /// Whether it is one of several steps that are taken in the order given: the normalised arguments have it
    /// as `--step=NAME` or `--step=NAME:VALUE`.
    var isStep: Bool

    init(
        _ short: Character?, _ long: String?, _ value: String? = nil, _ help: String,
        olderShorts: [Character] = [], refusal: String? = nil, isStep: Bool = false
    ) {
        self.short = short
        self.long = long
        self.value = value
        self.help = help
        self.olderShorts = olderShorts
        self.refusal = refusal
        self.isStep = isStep
    }

    /// The long name under which the normalised arguments give it.
    var binding: String { long ?? short.map { String($0) } ?? "" }

    func hasShort(_ letter: Character) -> Bool { short == letter || olderShorts.contains(letter) }
}

/// A command as the command line and its documentation know it.
struct CommandSpec: Sendable {
    var name: String
    /// What it does, in one sentence without a full stop.
    var summary: String
    /// What follows the options in the usage line.
    var operands: String
    var options: [OptionSpec]
    /// Paragraphs for the help text and the man page.
    var notes: [String]
    /// The meanings of exit statuses, beyond 0 for success and ``errorStatus`` for errors.
    var statuses: [(status: Int32, meaning: String)] = []
    /// The exit status of an error.
    var errorStatus: Int32 = 1
    /// Whether `-1G` is an operand.
    var takesNegativeOperands = false
    /// The name of a program that is this command alone.
    var alias: String?

    /// How the command is called, in messages and help.
    func title(_ program: String) -> String { program == alias ? program : "\(program) \(name)" }

    init(
        _ name: String, _ summary: String, operands: String, options: [OptionSpec], notes: [String] = []
    ) {
        self.name = name
        self.summary = summary
        self.operands = operands
        self.options = options + [Self.object, Self.help]
        self.notes = notes
    }

    private static let object = OptionSpec(
        nil, "object", "OBJDEF",
        "Define a secret that encryption options name: secret,id=ID,data=TEXT or file=NAME")
    private static let help = OptionSpec("h", "help", nil, "Show this text")
}

/// Options that several commands have.
extension OptionSpec {
    static func format(_ what: String = "the image") -> OptionSpec {
        OptionSpec("f", "format", "FMT", "Format of \(what); without it, the format is guessed")
    }
    static let imageOpts = OptionSpec(
        nil, "image-opts", nil, "File names are lists of open options: driver=FMT,file.filename=NAME,...")
    static let engine = OptionSpec(
        "i", "aio", "threads|native|io_uring",
        "How requests reach the file: system calls (the default), Linux AIO (past the page cache only) or "
            + "io_uring")
    static let forceShare = OptionSpec(
        "U", "force-share", nil, "Open the image even while another program writes to it")
    static let quiet = OptionSpec("q", "quiet", nil, "Print errors only")
    static let progress = OptionSpec("p", "progress", nil, "Show how far the work is")
    static let output = OptionSpec(nil, "output", "human|json", "Text for people (the default) or JSON")
    static func cache(_ short: Character, _ long: String = "cache", of what: String) -> OptionSpec {
        OptionSpec(
            short, long, "MODE",
            "Cache mode of \(what): none, writeback, writethrough, directsync or unsafe")
    }
}
