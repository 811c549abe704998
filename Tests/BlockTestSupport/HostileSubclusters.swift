/// Damage to extended L2 entries, which lie in pairs of 64-bit words: the cluster, then its subclusters.
extension HostileCase {
    private static let first: UInt64 = 1

    /// An image with extended entries, whose guest clusters 0 and 1 are data in all subclusters.
    private static func extended(
        _ name: String, _ finding: Finding, read: String? = nil, repairable: Bool = false,
        _ damage: (inout Qcow2Bytes) -> Void
    ) -> HostileCase {
        var image = Qcow2Bytes()
        let clusters = [0, 1].map { image.get64(image.l2 + $0 * 8) }
        image.put64(Incompatible.extendedL2, at: Field.incompatible)
        for (index, cluster) in clusters.enumerated() {
            image.setL2(index * 2, cluster)
            image.setL2(index * 2 + 1, 0xffff_ffff)
        }
        return opens("extended L2: \(name)", finding, read: read, repairable: repairable, image, damage)
    }

    static let subclusters: [HostileCase] = [
        refused("extended L2 in small clusters", "subcluster size: 256", Qcow2Bytes(clusterBits: 13)) {
            $0.put64(Incompatible.extendedL2, at: Field.incompatible)
        },
        extended("nothing wrong", .nothing) { _ in },
        extended("zero and unallocated ones", .nothing) { $0.setL2(1, 0x0f00_0000_00ff_ffff) },
        extended(
            "both allocated and zero", .corruption, read: "both allocated and zero", repairable: true
        ) { $0.setL2(1, first << 32 | 0xffff_ffff) },
        extended("allocated without a cluster", .corruption, read: "without a cluster", repairable: true) {
            $0.setL2(0, 0)
        },
        extended("compressed with a bitmap", .corruption, read: "compressed cluster with", repairable: true) {
            $0.setCompressed(0, [3, 0], at: $0.data)
        },
        extended("a zero flag of plain entries", .corruption, repairable: true) {
            $0.setL2(0, $0.get64($0.l2) | 1)
        },
    ]
}
