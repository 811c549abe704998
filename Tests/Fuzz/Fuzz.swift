import BlockTestSupport

/// libFuzzer's loop, which ends the process when it is done.
@_silgen_name("LLVMFuzzerRunDriver")
private func runFuzzer(
    _ count: UnsafeMutablePointer<Int32>,
    _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
    _ body: @convention(c) (UnsafePointer<UInt8>?, Int) -> Int32
) -> Int32

/// `Fuzz TARGET [libFuzzer's arguments]`; without arguments it lists the targets.
@main
struct Fuzz {
    /// Set before the loop starts and never again.
    nonisolated(unsafe) private static var target: FuzzTarget?

    static func main() {
        let arguments = CommandLine.arguments
        guard arguments.count > 1, let named = FuzzTarget.named(arguments[1]) else {
            for target in FuzzTarget.all { print(target.name) }
            return
        }
        target = named
        var count = CommandLine.argc - 1
        var pointers = CommandLine.unsafeArgv.advanced(by: 1)
        _ = runFuzzer(&count, &pointers) { bytes, count in
            Fuzz.target?.run(Array(UnsafeBufferPointer(start: bytes, count: count)))
            return 0
        }
    }
}
