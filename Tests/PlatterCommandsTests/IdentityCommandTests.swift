import BlockTestSupport
import Testing

/// Overlays that note which contents their backing files must have, at the shell.
@Suite struct IdentityCommandTests {
    private let fixture: CommandFixture

    init() throws { fixture = try CommandFixture() }

    @discardableResult private func ok(_ script: String) throws -> CommandOutcome {
        let outcome = try fixture.shell("set -e\n" + script, linked: true)
        #expect(outcome.status == 0, "\(script): \(outcome.text)")
        return outcome
    }

    private static func make(_ format: String) -> String {
        """
        platter create -q -f \(format) base 32M
        platter io -f \(format) -c 'write -P 1 0 6M' base > make.log
        platter create -q -f \(format) -b base -F \(format) middle
        platter io -f \(format) -c 'write -P 2 4M 4M' middle > make.log
        platter create -q -f \(format) -b middle -F \(format) top
        platter io -f \(format) -c 'write -P 3 7M 5M' top > make.log
        platter convert -f \(format) -O raw top want

        """
    }

    static let commits = ["-q top", "-q -d top", "-q -b base top", "-q -d -b middle top", "-q middle"]

    @Test(.timeLimit(.minutes(1)), arguments: ["vhdx", "vmdk", "vpc"], commits)
    func commitKeepsOverlays(_ format: String, _ commit: String) throws {
        try ok(
            Self.make(format) + """
                platter commit \(commit)
                platter convert -f \(format) -O raw top have
                cmp want have
                platter commit -q top
                platter convert -f \(format) -O raw top have
                cmp want have
                """)
    }

    /// Killed by the system, at the speed of a slow disk.
    @Test(.timeLimit(.minutes(1)), arguments: ["vhdx", "vmdk"]) func killed(_ format: String) throws {
        try ok(
            Self.make(format) + """
                for after in 0.05 0.1 0.2 0.3 0.5; do
                    cp base base.kept; cp middle middle.kept; cp top top.kept
                    timeout -s KILL $after platter commit -q -r 4M top || true
                    platter convert -f \(format) -O raw top have
                    cmp want have
                    platter commit -q top
                    platter convert -f \(format) -O raw top have
                    cmp want have
                    mv base.kept base; mv middle.kept middle; mv top.kept top
                done
                """)
    }

    @Test(arguments: ["vhdx", "vmdk", "vpc"]) func resizingToTheSameSize(_ format: String) throws {
        try ok(
            """
            platter create -q -f \(format) base 64M
            platter io -f \(format) -c 'write -P 1 0 1M' base > make.log
            platter create -q -f \(format) -b base -F \(format) top
            size=$(platter info base | sed -n 's/^virtual size.*(\\([0-9]*\\) bytes).*/\\1/p')
            platter resize -q -f \(format) base $size
            platter convert -f \(format) -O raw top o.raw
            """)
    }

    @Test(arguments: ["vhdx", "vmdk"]) func aChangedBaseIsReadWithAWarning(_ format: String) throws {
        try ok(
            Self.make(format) + """
                platter create -q -f \(format) -b base -F \(format) other
                platter io -f \(format) -c 'write -P 4 24M 64k' middle > make.log
                """)
        let refused = try fixture.shell("platter convert -f \(format) -O raw top o.raw", linked: true)
        #expect(refused.status == 1 && refused.error.contains("parent-check=off"), "\(refused.text)")
        let list = "--image-opts driver=\(format),parent-check=off,file.filename=top"
        for command in [
            "convert \(list) -O raw o.raw",
            "map \(list)", "dd \(list.replacing("driver", with: "if=driver")) of=dd.raw bs=1M count=1",
            "measure -O raw \(list)", "compare \(list) driver=raw,file.filename=want || [ $? = 1 ]",
            "io -c 'open -r -o driver=\(format),parent-check=off top' -c 'read -P 4 24M 64k'",
        ] {
            let outcome = try fixture.shell("platter " + command, linked: true)
            #expect(outcome.status == 0, "\(command): \(outcome.text)")
            let warnings = outcome.error.split(separator: "\n").filter { $0.contains("warning: ") }
            #expect(warnings.count == 1, "\(command): \(outcome.error)")
        }
        let writing = try fixture.shell(
            "platter io \(list) -c 'write 0 512'", linked: true)
        #expect(writing.status == 1 && writing.error.contains("only be read"), "\(writing.text)")
        // Elsewhere the option is none.
        let raw = try fixture.shell(
            "platter map --image-opts driver=raw,parent-check=off,file.filename=want", linked: true)
        #expect(raw.status == 1 && raw.error.contains("parent-check"), "\(raw.text)")
        try ok("platter rebase -u -f \(format) -b middle -F \(format) top && platter map top > map.log")
    }
}
