/// What a repair says that gave up entries which pointed nowhere: what they referred to may be in the space
/// that nothing refers to, so that stays until the next repair.
enum KeptLeaks {
    static let message = "Leaked space stays, for what was given up may be in it: another repair frees it"
}
