/// The program.
public enum PlatterProgram {
    /// Runs the command line and answers the exit status.
    public static func run(_ arguments: [String]) -> Int32 { 0 }
}
