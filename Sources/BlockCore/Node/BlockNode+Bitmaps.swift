extension BlockNode {
    /// The driver, as one that stores bitmaps in the image.
    ///
    /// - Throws: `unsupported` when the format or the image's version stores no bitmaps.
    public func bitmapKeeper() throws(BlockError) -> any BitmapCapable {
        guard let recorder else {
            throw BlockError(
                .unsupported, "Can't store persistent bitmaps to '\(filename)': Operation not supported",
                path: filename)
        }
        return recorder
    }

    /// Changes the image's bitmaps when no other request is under way.
    ///
    /// Durable once the image is closed.
    ///
    /// - Throws: `readOnly`; `io` once the node is closed; `unsupported` as ``bitmapKeeper()``; errors of
    ///   `body`.
    public func changeBitmaps(
        _ body: (any BitmapCapable) throws(BlockError) -> Void
    ) throws(BlockError) {
        try checkWritable()
        let driver = try bitmapKeeper()
        let ticket = acquireAll()
        defer { requests.releaseAll(ticket) }
        try checkChangeable()
        try checkUnused()
        try body(driver)
    }
}
