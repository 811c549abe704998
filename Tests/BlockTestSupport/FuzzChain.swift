import BlockCore

/// Chains in which one image is a stranger's: what is below or above it is sound.
extension FuzzTarget {
    static let chains: [FuzzTarget] = [
        // The base is whatever its bytes look like.
        chain("chain-base") { bytes in ["disk": overlay(backing: "base"), "base": SparseBytes(bytes)] },
        // The base is a smaller qcow2 image whose header and tables are changed.
        chain("chain-qcow2-base") { bytes in
            var base = Qcow2Bytes(clusterBits: 9)
            patch(&base, bytes, over: 0..<base.data)
            return ["disk": overlay(backing: "base"), "base": base.bytes]
        },
        // The overlay's header and tables are changed.
        chain("chain-overlay") { bytes in
            var image = overlayBytes(backing: Array("base".utf8))
            patch(&image, bytes, over: 0..<image.data)
            return ["disk": image.bytes, "base": Qcow2Bytes(clusterBits: 9).bytes]
        },
        // Both are: one half of the patches is the overlay's.
        chain("chain-both") { bytes in
            let half = bytes.count / 20 * 10
            var image = overlayBytes(backing: Array("base".utf8))
            patch(&image, Array(bytes.prefix(half)), over: 0..<image.data)
            var base = overlayBytes(backing: Array("bottom".utf8))
            patch(&base, Array(bytes.dropFirst(half)), over: 0..<base.data)
            return ["disk": image.bytes, "base": base.bytes, "bottom": Qcow2Bytes(clusterBits: 9).bytes]
        },
        // The overlay names what it likes: itself, one that names it, options.
        chain("chain-names") { bytes in
            let name = bytes.isEmpty ? Array("base".utf8) : Array(bytes.prefix(256))
            return [
                "disk": overlayBytes(backing: name).bytes, "base": overlay(backing: "bottom"),
                "bottom": Qcow2Bytes(clusterBits: 9).bytes,
            ]
        },
    ]

    private static func chain(
        _ name: String, _ files: @escaping @Sendable ([UInt8]) -> [String: SparseBytes]
    ) -> FuzzTarget {
        var target = FuzzTarget(
            name: name, image: { files($0)["disk"] ?? SparseBytes() }, format: "qcow2")
        target.below = { bytes in files(bytes).filter { $0.key != "disk" } }
        return target
    }

    private static func overlay(backing: String) -> SparseBytes {
        overlayBytes(backing: Array(backing.utf8)).bytes
    }

    /// A sound overlay of 64 KiB, of which its first KiB is its own.
    private static func overlayBytes(backing: [UInt8]) -> Qcow2Bytes {
        var image = Qcow2Bytes(clusterBits: 9, virtualSize: 64 << 10)
        image.setBacking(backing)
        return image
    }
}
