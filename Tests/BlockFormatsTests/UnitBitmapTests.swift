import BlockTestSupport
import Testing

@testable import BlockFormats

/// What all checks share: used units, findings, lines that are told.
@Suite struct UnitBitmapTests {
    @Test("agrees with a set", arguments: [0..<0, 0..<1, 0..<64, 5..<200, 1000..<1321])
    func agreement(_ units: Range<Int>) {
        var random = SeededRandom(seed: UInt64(units.count))
        var bitmap = UnitBitmap(units)
        var expected: Set<Int> = []
        for _ in 0..<400 {
            let unit = Int.random(in: units.lowerBound - 3..<units.upperBound + 3, using: &random)
            let isNew = units.contains(unit) && expected.insert(unit).inserted
            #expect(bitmap.insert(unit) == isNew)
            if Int.random(in: 0..<3, using: &random) == 0 {
                bitmap.remove(unit..<unit + 2)
                expected.subtract([unit, unit + 1])
            }
            let start = Int.random(in: units.lowerBound..<units.upperBound + 1, using: &random)
            let count = Int.random(in: 1..<6, using: &random)
            let free = (start..<max(start, units.upperBound)).filter { !expected.contains($0) }
            #expect(bitmap.firstUnused(from: start) == free.first)
            let place = free.first { first in
                first + count <= units.upperBound
                    && (first..<first + count).allSatisfy { !expected.contains($0) }
            }
            #expect(bitmap.firstUnused(count, from: start) == place)
            #expect(bitmap.usedCount == expected.count && bitmap.lastUsed == expected.max())
            let range = start..<start + count
            #expect(bitmap.containsAny(of: range) == !expected.isDisjoint(with: range))
            #expect(bitmap.firstUsed(from: start) == expected.filter { $0 >= start }.min())
            #expect(bitmap.end == expected.max().map { $0 + 1 } ?? units.lowerBound)
        }
    }

    @Test("long ranges are marked and given back", arguments: [0..<Int.max, 70..<1000])
    func ranges(_ units: Range<Int>) {
        var random = SeededRandom(seed: 9)
        var bitmap = UnitBitmap(units)
        var expected: Set<Int> = []
        for round in 0..<200 {
            let start = Int.random(in: 0..<900, using: &random)
            let range = start..<start + Int.random(in: 0..<200, using: &random)
            let inside = range.filter { units.contains($0) }
            if round % 3 == 2 {
                bitmap.remove(range)
                expected.subtract(range)
            } else {
                #expect(bitmap.insert(range) == expected.isDisjoint(with: inside))
                expected.formUnion(inside)
            }
            #expect(bitmap.usedCount == expected.count && bitmap.lastUsed == expected.max())
            let other = Int.random(in: 0..<1100, using: &random)
            #expect(bitmap.contains(other) == expected.contains(other))
        }
    }

    @Test func takesAllOrNone() {
        var bitmap = UnitBitmap(0..<100)
        #expect(bitmap.insertUnused(10..<20) && !bitmap.insertUnused(19..<25))
        let isTaken = bitmap.insertUnused(99..<101)
        #expect(!isTaken)
        #expect(bitmap.usedCount == 10 && !bitmap.contains(20))
        bitmap.grow(to: 300)
        #expect(bitmap.insertUnused(99..<301) == false && bitmap.insertUnused(99..<300))
        #expect(bitmap.unusedCount == 300 - 211)
    }

    @Test func findingsAreCountedAndSomeKept() {
        var findings = Findings<String>(keeping: 2)
        findings.corruption("a")
        findings.leak("b")
        findings.leak("c")
        #expect(findings.kept == ["a", "b"] && findings.count == 3)
        #expect(findings.corruptions == 1 && findings.leaks == 2)
    }

    @Test func veryManyLinesEnd() {
        var lines: [String] = []
        var bounded = BoundedReport()
        for number in 0..<100_010 { bounded.report("\(number)") { lines.append($0) } }
        #expect(lines.count == 100_000 && lines.last == "More is wrong than is reported here")
    }
}
