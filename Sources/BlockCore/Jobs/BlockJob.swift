/// Long work on block nodes: streaming, committing, mirroring, comparing.
///
/// A job is a value that states the work. ``JobEngine`` starts it on a thread of its own; ``run(_:)`` does
/// it on the calling thread.
public protocol BlockJob: Sendable {
    /// A short name for messages and lists: `stream`, `commit`.
    static var name: String { get }
    /// Whether the job keeps to a speed limit.
    static var hasSpeed: Bool { get }
    /// Whether the job, once ready, goes on until it is told to complete.
    static var waitsForCompletion: Bool { get }
    /// The nodes that no other job may use meanwhile, the one that the job is listed under first.
    var nodes: [BlockNode] { get }
    /// The speed limit to begin with, in bytes a second; 0 for that of the control.
    var speed: Int { get }
    /// Begins the part of the work that belongs to the moment of the start. Called at most once, before
    /// ``work(_:)``, on the thread that starts the job; ``nodes`` are marked as used.
    ///
    /// - Throws: errors of any kind: the job is not started then.
    func prepare() throws(BlockError)
    /// Ends what ``prepare()`` began, when no thread can be started for the work.
    func abandon()
    /// Does the work on the calling thread and on helper threads, under `control`. The caller has marked
    /// ``nodes`` as used.
    ///
    /// - Throws: `cancelled` when `control` cancels it; errors of the nodes.
    func work(_ control: JobControl) throws(BlockError)
}

extension BlockJob {
    public static var hasSpeed: Bool { true }
    public static var waitsForCompletion: Bool { false }
    public var speed: Int { 0 }
    /// - Throws: nothing by default.
    public func prepare() throws(BlockError) {}
    public func abandon() {}

    /// Does the work, with ``nodes`` marked as used.
    ///
    /// - Throws: `busy` when another job uses a node; `invalidArgument` for a negative speed; as
    ///   ``work(_:)``.
    public func run(_ control: JobControl) throws(BlockError) {
        try RunningJob.check(speed: speed, of: Self.self)
        if speed > 0 { control.setSpeed(speed) }
        let use = NodeUse(by: Self.name, onClose: { control.cancel() })
        use.ownedByThisThread()
        let nodes = nodes
        try use.begin(on: nodes)
        defer { use.end(on: nodes) }
        try work(control)
    }
}
