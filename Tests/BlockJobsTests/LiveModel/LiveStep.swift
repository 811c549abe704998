import BlockTestSupport

/// One step of a random life of a device. Its numbers choose among what there is at that moment, so that a
/// sequence stays valid when steps are dropped.
enum LiveStep: Sendable, CustomStringConvertible {
    /// Ends the guest, then writes, zeroes, discards and reads anywhere.
    case change(seed: UInt64)
    /// Starts the threads of a guest.
    case guest(seed: UInt64)
    /// Lets the guest write that many times.
    case rounds(Int)
    /// Ends the guest and compares the disk.
    case quiet
    case start(LiveJob, choice: Int, speed: Int, isPaused: Bool)
    case pause(Int)
    case resume(Int)
    case speed(Int, bytesPerSecond: Int)
    case cancel(Int)
    /// Lets a job end by itself; one that follows the guest is told to complete.
    case complete(Int)
    case resize(units: Int)
    case snapshot(LiveSnapshot, name: Int)
    /// Puts a new image over the top.
    case overlay(Int)
    case reopen(copiesOnRead: Bool)
    /// Makes the top read-only, compares, and makes it writable again.
    case protect
    /// Adds a dirty bitmap; or takes it away, and compares it with what has changed.
    case bitmap
    /// Holds the device's requests for a moment.
    case halt

    var description: String {
        switch self {
        case .change(let seed): "change(seed: \(seed))"
        case .guest(let seed): "guest(seed: \(seed))"
        case .rounds(let count): "rounds(\(count))"
        case .quiet: "quiet"
        case .start(let job, let choice, let speed, let isPaused):
            "start(.\(job), choice: \(choice), speed: \(speed), isPaused: \(isPaused))"
        case .pause(let job): "pause(\(job))"
        case .resume(let job): "resume(\(job))"
        case .speed(let job, let speed): "speed(\(job), bytesPerSecond: \(speed))"
        case .cancel(let job): "cancel(\(job))"
        case .complete(let job): "complete(\(job))"
        case .resize(let units): "resize(units: \(units))"
        case .snapshot(let action, let name): "snapshot(.\(action), name: \(name))"
        case .overlay(let format): "overlay(\(format))"
        case .reopen(let copies): "reopen(copiesOnRead: \(copies))"
        case .protect: "protect"
        case .bitmap: "bitmap"
        case .halt: "halt"
        }
    }

    /// The name without the numbers, for the count of what was done.
    var kind: String {
        switch self {
        case .start(let job, _, _, _): "start \(job)"
        case .snapshot(let action, _): "snapshot \(action)"
        default: String(description.prefix { $0 != "(" })
        }
    }
}

/// The jobs that a step starts.
enum LiveJob: String, Sendable, CaseIterable {
    case stream, streamMiddle, mirror, activeMirror, copy, backup, activeCommit, commitMiddle
}

enum LiveSnapshot: String, Sendable, CaseIterable {
    case create, apply, delete
}

extension LiveStep {
    /// The life that a seed makes.
    static func sequence(seed: UInt64, count: Int) -> [LiveStep] {
        var random = SeededRandom(seed: seed)
        return (0..<count).map { _ in next(&random) }
    }

    private static func next(_ random: inout SeededRandom) -> LiveStep {
        let job = random.number(in: 0..<3)
        switch random.number(in: 0..<100) {
        case 0..<14: return .change(seed: random.next())
        case 14..<26: return .guest(seed: random.next())
        case 26..<36: return .rounds(1 + random.number(in: 0..<12))
        case 36..<40: return .quiet
        case 40..<58: return start(&random)
        case 58..<61: return .pause(job)
        case 61..<65: return .resume(job)
        case 65..<68: return .speed(job, bytesPerSecond: [0, 1 << 20, 64 << 20][random.number(in: 0..<3)])
        case 68..<72: return .cancel(job)
        case 72..<80: return .complete(job)
        case 80..<83: return .resize(units: 8 + random.number(in: 0..<12))
        case 83..<88:
            let action = LiveSnapshot.allCases[[0, 0, 1, 2][random.number(in: 0..<4)]]
            return .snapshot(action, name: random.number(in: 0..<2))
        case 88..<92: return .overlay(random.number(in: 0..<8))
        case 92..<94: return .reopen(copiesOnRead: random.number(in: 0..<2) == 0)
        case 94..<96: return .protect
        case 96..<98: return .bitmap
        default: return .halt
        }
    }

    private static func start(_ random: inout SeededRandom) -> LiveStep {
        let jobs = LiveJob.allCases
        return .start(
            jobs[random.number(in: 0..<jobs.count)], choice: random.number(in: 0..<64),
            speed: random.number(in: 0..<3) == 0 ? 32 << 20 : 0, isPaused: random.number(in: 0..<4) == 0)
    }
}

/// Makes a failing sequence shorter.
enum LiveShrinking {
    /// Drops steps while what is left still fails, halves first, then single ones.
    ///
    /// - Parameter attempts: how often `fails` is called at most.
    static func shrink(
        _ steps: [LiveStep], attempts: Int, _ fails: ([LiveStep]) -> Bool
    ) -> [LiveStep] {
        var steps = steps
        var left = attempts
        var size = max(1, steps.count / 2)
        while size >= 1 {
            var start = 0
            while start < steps.count, left > 0 {
                var fewer = steps
                fewer.removeSubrange(start..<min(start + size, steps.count))
                left -= 1
                if fails(fewer) { steps = fewer } else { start += size }
            }
            if left == 0 || size == 1 { break }
            size /= 2
        }
        return steps
    }
}
