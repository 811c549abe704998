import BlockCore

extension Qcow2Driver: SpaceSharing {
    public var sharingChild: Int? { data.encryption == nil && !isEncrypted ? data.child : nil }

    /// Order of writes: as for written data. New clusters get the source's blocks first, then their entries.
    public func share(_ source: PlainPlace, at offset: Int, count: Int) throws(BlockError) -> Int {
        guard sharingChild != nil, (offset | count) & (layout.clusterSize - 1) == 0 else { return 0 }
        var done = 0
        while done < count {
            let plan = try metadata.withLock { tables throws(BlockError) -> WritePlan in
                try tables.plan(offset + done..<offset + count)
            }
            guard try share(source.advanced(by: done), plan) else { break }
            done += plan.guest.count
        }
        return done
    }

    /// Carries out one part. `false`: nothing was stored.
    private func share(_ source: PlainPlace, _ plan: WritePlan) throws(BlockError) -> Bool {
        var isStored = false
        var failure: BlockError?
        do throws(BlockError) {
            // What has to be completed is written.
            if plan.allocation.map({ $0.guest == plan.guest }) ?? true {
                file.emit(.writeData)
                isStored = try data.node.share(source, at: plan.hostOffset, count: plan.guest.count) > 0
            }
        } catch {
            failure = error
        }
        finishWrite { tables in
            guard let allocation = plan.allocation else { return }
            guard isStored else { return tables.giveBack(allocation) }
            do throws(BlockError) { try tables.link(allocation) } catch { failure = error }
        }
        if let failure { throw failure }
        return isStored
    }
}
