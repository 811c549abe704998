/// Finds the known name that is nearest to a mistyped one.
public enum NearestName {
    /// Longer names, in bytes, are not compared: the work grows with the square of the length.
    private static let maximumBytes = 64

    /// `Did you mean 'convert'?` for the name that is nearest to `name`; `nil` when none is near.
    ///
    /// A name is near if at most one letter in three was added, left out, replaced or swapped with the next.
    ///
    /// - Complexity: O(*names* × *length*²).
    public static func hint(_ name: String, among known: some Sequence<String>) -> String? {
        nearest(to: name, among: known).map { "Did you mean '\($0)'?" }
    }

    static func nearest(to name: String, among known: some Sequence<String>) -> String? {
        let typed = Array(name.utf8)
        guard !typed.isEmpty, typed.count <= maximumBytes else { return nil }
        var best: (name: String, distance: Int)?
        for candidate in known where candidate != name {
            let distance = distance(typed, Array(candidate.utf8))
            let isNear = distance <= max(1, min(typed.count, candidate.utf8.count) / 3)
            if isNear && distance < best?.distance ?? .max { best = (candidate, distance) }
        }
        return best?.name
    }

    /// The optimal string alignment distance, over three rows of its table.
    private static func distance(_ one: [UInt8], _ two: [UInt8]) -> Int {
        var beforeLast: [Int] = []
        var last = Array(0...two.count)
        for i in one.indices {
            var row = [i + 1]
            for j in two.indices {
                let replaced = last[j] + (one[i] == two[j] ? 0 : 1)
                var least = min(replaced, last[j + 1] + 1, row[j] + 1)
                if i > 0 && j > 0 && one[i] == two[j - 1] && one[i - 1] == two[j] {
                    least = min(least, beforeLast[j - 1] + 1)
                }
                row.append(least)
            }
            (beforeLast, last) = (last, row)
        }
        return last[two.count]
    }
}
