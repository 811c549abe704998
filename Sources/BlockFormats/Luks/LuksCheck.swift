import BlockCore
import Synchronization

extension LuksDriver: Checkable {
    /// Checks that a key slot is active, and that key material and data lie inside the file.
    ///
    /// Opening the volume has already validated the header and excluded overlaps. No key is needed.
    ///
    /// - Throws: `unsupported` for a repair: a lost key cannot be restored; `io`.
    public func check(repair: RepairMode, report: (String) -> Void) throws(BlockError) -> CheckResult {
        guard repair == .none else {
            throw BlockError(.unsupported, "Images of format '\(Self.name)' cannot be repaired")
        }
        let (header, length) = try volume.withLock { (volume) throws(BlockError) in
            (volume.header, try volume.area.node.length())
        }
        var result = CheckResult()
        if header.activeSlots.isEmpty {
            result.corruptions += 1
            report("ERROR no key slot is active, so that nothing can be decrypted")
        }
        for index in header.activeSlots {
            let end = header.slots[index].materialOffset + Luks.materialBytes(keyBytes: header.keyBytes)
            guard end > length else { continue }
            result.corruptions += 1
            report("ERROR the key material of slot \(index) is beyond the end of the file")
        }
        return result
    }
}
