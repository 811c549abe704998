import BlockCore

/// Reading by vote.
extension QuorumDriver {
    /// Equal contents, and the nodes that hold them.
    private struct Version {
        var content: AlignedBuffer
        var voters: [Int]
    }

    /// Fills `buffer` with the content that most nodes hold; of equally many, that which was met last.
    func readByVote(into buffer: inout MutableRawSpan, at offset: Int) throws(BlockError) {
        let range = offset..<offset + buffer.byteCount
        let rewrites = rewritesCorrupted && !child.isReadOnly
        // Exclusively, since a child that copies on read wants it so.
        let winner = try child.holding(range, exclusive: true) { () throws(BlockError) in
            let (versions, best) = try vote(on: range)
            let winner = versions[best].content
            if rewrites { rewrite(versions, with: winner, at: offset) }
            return winner
        }
        buffer.copy(from: winner.bytes)
    }

    /// The versions of a range, and the index of the one that won.
    private func vote(on range: Range<Int>) throws(BlockError) -> (versions: [Version], best: Int) {
        let (versions, failure) = versions(of: range)
        let read = versions.reduce(0) { $0 + $1.voters.count }
        if read < threshold { throw failure ?? disagreement(at: range.lowerBound) }
        if compares, versions.count == 2 { throw mismatch(range, versions[0].content, versions[1].content) }
        var best = 0
        for index in versions.indices where versions[index].voters.count >= versions[best].voters.count {
            best = index
        }
        guard versions[best].voters.count >= threshold else { throw disagreement(at: range.lowerBound) }
        return (versions, best)
    }

    private func mismatch(_ range: Range<Int>, _ one: AlignedBuffer, _ other: AlignedBuffer) -> BlockError {
        let difference = range.lowerBound + (one.bytes.firstDifference(from: other.bytes) ?? 0)
        return BlockError(
            .io,
            "quorum: offset=\(range.lowerBound) bytes=\(range.count) contents mismatch at offset "
                + "\(difference)",
            path: child.filename, offset: difference)
    }

    /// What the nodes hold, in the order in which it was met, and the first error.
    private func versions(of range: Range<Int>) -> (versions: [Version], failure: BlockError?) {
        var versions: [Version] = []
        var failure: BlockError?
        for (index, node) in nodes.enumerated() {
            let content = AlignedBuffer(count: range.count)
            do throws(BlockError) {
                var bytes = content.mutableBytes
                try node.read(into: &bytes, at: range.lowerBound)
            } catch {
                failure = failure ?? error
                continue
            }
            let same = versions.firstIndex { $0.content.bytes.hasSameBytes(as: content.bytes) }
            if let same {
                versions[same].voters.append(index)
            } else {
                versions.append(Version(content: content, voters: [index]))
            }
        }
        return (versions, failure)
    }

    /// Writes the content that won to the nodes that hold another one. One that cannot be written stays as it
    /// is: it lost the vote and will again.
    private func rewrite(_ versions: [Version], with winner: AlignedBuffer, at offset: Int) {
        for version in versions where version.content !== winner {
            for index in version.voters { try? nodes[index].write(winner.bytes, at: offset) }
        }
    }
}
