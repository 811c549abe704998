import BlockCore
import BlockFormats
import BlockTestSupport
import Foundation
import Testing

/// QEMU's judgement of images whose snapshots were being changed when the program was killed.
@Suite(.enabled(if: Peer.isExpected)) struct SnapshotCrashInteropTests {
    @Test(arguments: ["0.10", "1.1"], ["create", "apply", "delete"])
    func killed(compat: String, action: String) throws {
        let configuration = FormatConfiguration(
            Qcow2Driver.self, options: [("cluster_size", "4096"), ("compat", compat)], virtualSize: 1 << 20)
        let store = TestStore()
        _ = try configuration.create(in: store)
        let settings = OpenSettings(readOnly: false)
        var node = try configuration.open(in: store, settings: settings)
        for (index, name) in ["one", "two", ""].enumerated() {
            let bytes = [UInt8](repeating: UInt8(index + 1), count: 40_000 - 9000 * index)
            try node.write(bytes.span.bytes, at: 8192 * index)
            if !name.isEmpty { try node.createSnapshot(SnapshotInfo(id: "", name: name)) }
        }
        try node.close()
        let files = store.files
        store.clearLog()
        node = try configuration.open(in: store, settings: settings)
        switch action {
        case "create": try node.createSnapshot(SnapshotInfo(id: "", name: "new"))
        case "apply": try #require(node.format as? any SnapshotCapable).applySnapshot("one")
        default: try node.deleteSnapshot(named: "two")
        }
        try node.close()
        let fixture = try CommandFixture()
        var replay = CrashReplay(files: files, log: store.log)
        for point in 0...store.log.count {
            replay.advance(to: point)
            try #require(replay.afterKill["disk"]).store(at: fixture.path("\(point).qcow2"))
        }
        let script = """
            for f in *.qcow2; do qemu-img check -q $f || { echo "$f: $?"; qemu-img check $f; }; done
            """
        let outcome = try fixture.shell(script)
        #expect(outcome.text.isEmpty, "\(outcome.text)")
    }

    @Test("a snapshot entry with too much extra data: nothing is freed, and all is repaired")
    func longExtraData() throws {
        let fixture = try CommandFixture()
        let script = #"""
            set -e
            P='\#(CommandFixture.platter.path)'
            head -c 1M /dev/urandom > s.raw
            qemu-img convert -f raw -O qcow2 s.raw a.qcow2
            qemu-img snapshot -c s1 a.qcow2
            qemu-io -c "write -q -P 7 0 1M" a.qcow2
            python3 - <<'E'
            import struct
            d = bytearray(open("a.qcow2", "rb").read())
            table = struct.unpack(">Q", d[64:72])[0]
            names = sum(struct.unpack(">HH", d[table + 12:table + 16]))
            extra = struct.unpack(">I", d[table + 36:table + 40])[0]
            start = table + 40
            tail = bytes(d[start:start + extra]).ljust(1200, b"\0") + d[start + extra:start + extra + names]
            struct.pack_into(">I", d, table + 36, 1200)
            d[start:start + len(tail)] = tail
            open("x.qcow2", "wb").write(d.ljust((len(d) + 65535) // 65536 * 65536, b"\0"))
            E
            $P info x.qcow2 > info
            grep -q s1 info
            cp x.qcow2 z.qcow2
            ! $P check -r leaks z.qcow2 > out 2>&1
            cmp x.qcow2 z.qcow2
            $P check -r all x.qcow2 > out 2>&1
            qemu-img check -q x.qcow2
            qemu-io -c "write -q 0 512" x.qcow2
            qemu-img convert -l s1 -f qcow2 -O raw x.qcow2 o.raw
            cmp s.raw o.raw
            """#
        let outcome = try fixture.shell(script)
        #expect(outcome.status == 0, "\(outcome.text)")
    }
}
