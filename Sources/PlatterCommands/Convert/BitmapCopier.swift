import BlockCore

/// Copies the bitmaps of an image to another image with the same contents.
struct BitmapCopier {
    private let source: any BitmapCapable
    private let target: BlockNode
    private let infos: [BitmapInfo]

    /// Checks what can be checked before the disk is copied.
    ///
    /// - Parameter warn: prints a line for each inconsistent bitmap that is left out.
    /// - Throws: for an inconsistent bitmap unless `skipsBroken`; for a target that cannot keep bitmaps.
    init(
        from source: BlockNode, to target: BlockNode, skipsBroken: Bool, warn: (String) -> Void
    ) throws {
        guard let source = source.format?.asBitmapCapable else {
            throw CommandFailure("Source lacks bitmap support")
        }
        guard let keeper = target.format?.asBitmapCapable, keeper.bitmapObstacle == nil else {
            throw CommandFailure("Format driver '\(target.driverName)' does not support bitmaps")
        }
        var infos: [BitmapInfo] = []
        for info in try source.bitmaps() {
            if !info.isInconsistent {
                infos.append(info)
            } else if skipsBroken {
                warn("Skipping inconsistent bitmap '\(info.name)'")
            } else {
                throw CommandFailure(
                    "Cannot copy inconsistent bitmap '\(info.name)'",
                    details: ["Leave it out with --skip-broken-bitmaps, or remove it with 'bitmap --remove'"])
            }
        }
        self.source = source
        self.target = target
        self.infos = infos
    }

    /// Copies the bitmaps, each enabled or disabled as in the source. Call it once the disk is written, so
    /// that they do not record the copy.
    func copy() throws(BlockError) {
        for info in infos {
            let bits = try source.bitmap(named: info.name)
            do throws(BlockError) {
                try target.changeBitmaps { keeper throws(BlockError) in
                    try keeper.addBitmap(info.name, granularity: info.granularity, isEnabled: info.isEnabled)
                }
            } catch { throw error.prefixed("Failed to create bitmap \(info.name)") }
            do throws(BlockError) {
                try target.changeBitmaps { keeper throws(BlockError) in
                    try keeper.mergeBitmap(bits, into: info.name)
                }
            } catch { throw error.prefixed("Failed to populate bitmap \(info.name)") }
        }
    }
}
