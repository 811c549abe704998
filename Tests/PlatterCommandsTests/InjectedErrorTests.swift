import BlockTestSupport
import Testing

/// Commands under injected errors: status and words are qemu-img's, which were compared side by side.
@Suite struct InjectedErrorTests: CommandSuite {
    let fixture: CommandFixture

    init() throws {
        fixture = try CommandFixture()
        try fixture.shell(
            """
            head -c 4M /dev/zero | tr '\\0' '\\3' > e.raw && cp e.raw f.raw
            platter convert -f raw -O qcow2 e.raw e.qcow2
            """, linked: true)
    }

    private func rule(_ lines: String) throws {
        try fixture.write("c", Array(("[inject-error]\n" + lines).utf8))
    }

    private static let sector = "event = \"none\"\nsector = \"2000\"\niotype = "

    @Test func comparingNamesTheImageAsGiven() throws {
        try rule(Self.sector + "\"read\"\n")
        let read = "qemu-img: Error while reading offset 0 of blkdebug:c:e.raw: Input/output error\n"
        try expect("qemu-img compare -f raw -F raw blkdebug:c:e.raw f.raw", 4, "", read)
        try expect("qemu-img compare -f raw -F raw f.raw blkdebug:c:e.raw", 4, "", read)
        try rule(Self.sector + "\"block-status\"\n")
        let asked = "qemu-img: Sector allocation test failed for blkdebug:c:e.raw\n"
        try expect("qemu-img compare -f raw -F raw blkdebug:c:e.raw f.raw", 3, "", asked)
        try rule("event = \"read_aio\"\niotype = \"read\"\n")
        try expect(
            "qemu-img compare -F raw blkdebug:c:e.qcow2 f.raw", 4, "",
            "qemu-img: Error while reading offset 0 of blkdebug:c:e.qcow2: Input/output error\n")
    }

    /// A difference before what cannot be read is the answer.
    @Test func differencesBeforeAnErrorCount() throws {
        try rule("event = \"none\"\niotype = \"read\"\nsector = \"8000\"\n")
        try expect(
            "platter io -f raw -c 'write -P 9 512 512' f.raw > /dev/null && "
                + "qemu-img compare -f raw -F raw blkdebug:c:e.raw f.raw", 1,
            "Content mismatch at offset 512!\n")
    }

    @Test func salvagingTellsOfSectorsAndOfMaps() throws {
        try rule(Self.sector + "\"read\"\n")
        try expect(
            "qemu-img convert --salvage -f raw -O raw blkdebug:c:e.raw o.raw", 0, "",
            "qemu-img: warning: error while reading offset 1024000: Input/output error\n")
        let lost = try fixture.read("o.raw")
        #expect(lost[1_024_000..<1_024_512].allSatisfy { $0 == 0 })
        #expect(lost.count { $0 == 3 } == (4 << 20) - 512)
        try expect("qemu-img convert -q --salvage -f raw -O raw blkdebug:c:e.raw o.raw", 0)
        try rule(Self.sector + "\"block-status\"\n")
        try expect(
            "qemu-img convert --salvage -f raw -O raw blkdebug:c:e.raw o.raw && cmp o.raw e.raw", 0, "",
            "qemu-img: warning: error while reading block status at offset 1024000: Input/output error\n")
        try expect(
            "qemu-img convert -f raw -O raw blkdebug:c:e.raw o.raw", 1, "",
            "qemu-img: error while reading block status at offset 0: Input/output error\n")
        try rule("event = \"none\"\niotype = \"block-status\"\n")
        try expect(
            "qemu-img convert --salvage -f raw -O raw blkdebug:c:e.raw o.raw && cmp o.raw e.raw", 0, "",
            "qemu-img: warning: error while reading block status at offset 0: Input/output error\n")
    }

    @Test func whatCannotBeReadIsNamed() throws {
        try rule("event = \"none\"\niotype = \"read\"\n")
        let open = "qemu-img: Could not open 'blkdebug:c:e.qcow2': "
        try expect(
            "qemu-img info blkdebug:c:e.qcow2", 1, "",
            open + "Could not read image for determining its format: Input/output error\n")
        try expect(
            "qemu-img info -f qcow2 blkdebug:c:e.qcow2", 1, "",
            open + "Could not read qcow2 header: Input/output error\n")
        try expect(
            "qemu-img dd -f raw if=blkdebug:c:e.raw of=o.raw", 1, "",
            "qemu-img: error while reading from input image file: Input/output error\n")
        try rule("event = \"l2_load\"\niotype = \"read\"\n")
        let map = "qemu-img: Could not read file metadata: Input/output error\n"
        try expect(
            "qemu-img map -f qcow2 blkdebug:c:e.qcow2", 1,
            "Offset          Length          Mapped to       File\n", map)
        try expect("qemu-img map --output=json -f qcow2 blkdebug:c:e.qcow2", 1, "[", map)
    }

    /// The default cache mode of convert's target ignores flushes, failing ones too.
    @Test func flushesOfAnUnsafeTargetDoNotFail() throws {
        try rule("event = \"none\"\niotype = \"flush\"\n")
        try expect("qemu-img convert -n -f raw -O raw e.raw blkdebug:c:f.raw", 0)
        try expect(
            "qemu-img convert -n -t writeback -f raw -O raw e.raw blkdebug:c:f.raw", 1, "",
            "qemu-img: Input/output error\n")
    }
}

/// A raw disk with a stated size, alone and below an image.
@Suite struct RawWindowTests: CommandSuite {
    let fixture: CommandFixture
    private static let inner = "driver=qcow2,file.driver=raw,file.size=256k,file.file.filename=a.qcow2"

    init() throws {
        fixture = try CommandFixture()
        try fixture.shell(
            """
            head -c 1M /dev/zero | tr '\\0' '\\5' > a.raw
            platter create -q -f qcow2 a.qcow2 16M && truncate -s 256k a.qcow2 && cp a.qcow2 a
            """, linked: true)
    }

    @Test func anImageDoesNotGrowOutOfItsWindow() throws {
        try expect(
            "qemu-img convert -n -f raw --target-image-opts a.raw \(Self.inner)", 1, "",
            "qemu-img: error while writing at byte 0: No space left on device\n")
        try expect(
            "qemu-img bitmap --add --image-opts \(Self.inner) b", 1, "",
            "qemu-img: No space left on device\n")
        try expect(
            "qemu-io -c 'write 0 64k' --image-opts \(Self.inner); stat -c %s a.qcow2", 0,
            "write failed: No space left on device\n262144\n")
        try expect("qemu-img check -q a.qcow2 && qemu-img compare -q a a.qcow2", 0)
    }

    /// Without a size the disk below an image is as long as it has to be.
    @Test func anImageGrowsThroughRaw() throws {
        let options = "driver=qcow2,file.driver=raw,file.file.filename=a.qcow2"
        try expect("qemu-img convert -n -f raw --target-image-opts a.raw \(options)", 0)
        try expect(
            "qemu-img check -q a.qcow2 && qemu-io -c 'read -q -P 5 0 1M' -c 'read -q -P 0 1M 15M' a.qcow2", 0)
    }

    @Test func sizesThatMakeNoDiskAreRefused() throws {
        func refuses(_ options: String, _ message: String) throws {
            let image = "driver=raw,\(options),file.filename=a.raw"
            try expect(
                "qemu-img info --image-opts \(image)", 1, "",
                "qemu-img: Could not open '\(image)': \(message)\n")
        }
        try refuses("size=1000", "Specified size is not multiple of 512")
        try refuses("offset=1024,size=1023", "Specified size is not multiple of 512")
        try refuses(
            "size=2M",
            "The sum of offset (0) and size (2097152) has to be smaller or equal to the  actual size of the "
                + "containing file (1048576)")
        try refuses(
            "offset=2M", "Offset (2097152) cannot be greater than size of the containing file (1048576)")
    }

    @Test func theWindowIsTheDisk() throws {
        let image = "driver=raw,offset=512k,size=512k,file.filename=a.raw"
        try expect(
            "qemu-io -c 'write 512k 512' --image-opts \(image)", 1, "write failed: Input/output error\n")
        try expect("qemu-io -c 'read 512k 512' --image-opts \(image)", 1, "read failed: Input/output error\n")
        try expect(
            "qemu-img resize -q --image-opts \(image) 1M", 1, "",
            "qemu-img: Cannot resize fixed-size raw disks\n")
        try expect("qemu-img convert --image-opts \(image) w.raw && stat -c %s w.raw", 0, "524288\n")
        try expect("stat -c %s a.raw", 0, "1048576\n")
    }
}
