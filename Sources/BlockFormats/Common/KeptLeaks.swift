/// The line of a repair that dropped invalid entries: their data may lie in the leaked space, so the leaks
/// stay until the next repair.
enum KeptLeaks {
    static let message = "Leaked space stays, for what was given up may be in it: another repair frees it"
}
