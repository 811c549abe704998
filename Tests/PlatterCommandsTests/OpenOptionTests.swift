import BlockTestSupport
import Testing

/// Open options hold while an image is open, and no longer.
@Suite struct OpenOptionTests {
    @Test(arguments: ["on", "off"])
    func lazyRefcountsAreNotStored(_ wanted: String) throws {
        let fixture = try CommandFixture()
        let stored = wanted == "on" ? "off" : "on"
        try fixture.platter("create", "-q", "-f", "qcow2", "base.qcow2", "1M")
        try fixture.platter(
            "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=\(stored)", "-b", "base.qcow2", "-B",
            "qcow2",
            "over.qcow2")
        let streamed = try fixture.platter("stream", "-o", "lazy-refcounts=\(wanted)", "over.qcow2")
        #expect(streamed.status == 0, "\(streamed.error)")
        let info = try fixture.platter("info", "over.qcow2").output
        #expect(!info.contains("backing file"))
        #expect(info.contains("lazy refcounts: \(stored == "on")"))
    }
}
