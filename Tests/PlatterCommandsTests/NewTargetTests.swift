import BlockCore
import BlockProtocols
import BlockTestSupport
import Foundation
import Testing

/// What `convert`, `create` and `dd` leave behind: a whole image under its name, or nothing there.
@Suite struct NewTargetTests {
    let fixture: CommandFixture

    init() throws {
        fixture = try CommandFixture()
        try fixture.write("src.raw", (0..<1 << 20).map { UInt8(truncatingIfNeeded: $0 >> 8 | 1) })
    }

    /// The names in the folder, but for the fixture's own.
    private func names() throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: fixture.folder.path)
            .filter { !$0.hasPrefix(".") && $0 != "src.raw" }.sorted()
    }

    /// Starts `command` in the background, sends it `signal` once it works on its target, and waits.
    private func killed(_ command: String, by signal: String) throws -> CommandOutcome {
        try fixture.shell(
            """
            \(CommandFixture.poll)
            set -m; \(command) & child=$!; set +m
            poll 'ls | grep -q "platter-partial$"'
            kill -\(signal) $child; wait $child
            """, linked: true)
    }

    /// Shell that starts a conversion in the background and waits until it changes its target, `disk`.
    private func filling(_ options: String) -> String {
        """
        \(CommandFixture.poll)
        cp disk .before
        platter convert \(options) -m 1 src.raw disk & child=$!
        poll '! cmp -s .before disk'
        """
    }

    @Test(
        "a conversion that is killed leaves no target, and a name that tells what it is",
        arguments: ["raw", "qcow2", "vdi", "vpc", "vhdx", "vmdk"])
    func killedConversion(format: String) throws {
        let outcome = try killed("platter convert -r 100k -m 1 -O \(format) src.raw disk.img", by: "KILL")
        #expect(outcome.status == 137)
        let left = try names()
        #expect(left.count == 1 && left[0].hasPrefix("disk.img."), "\(left)")
        #expect(left.allSatisfy { $0.hasSuffix(".platter-partial") })
        #expect(try fixture.platter("convert", "-O", format, "src.raw", "disk.img").status == 0)
        #expect(try fixture.platter("compare", "-f", format, "disk.img", "src.raw").status == 0)
    }

    @Test("a killed image of several files is not there", arguments: ["KILL", "TERM"])
    func killedParts(signal: String) throws {
        let convert = "platter convert -r 100k -m 1 -O vmdk -o subformat=monolithicFlat src.raw disk.vmdk"
        _ = try killed(convert, by: signal)
        #expect(!fixture.exists("disk.vmdk"))
        if signal == "TERM" { #expect(try names() == []) }
        #expect(try fixture.shell(convert.replacing("-r 100k", with: ""), linked: true).status == 0)
        #expect(try fixture.platter("compare", "disk.vmdk", "src.raw").status == 0)
    }

    /// As `timeout` does: to the process and to its group.
    @Test func aSignalThatIsSentTwiceRemovesThePart() throws {
        let convert = "platter convert -r 100k -m 1 -O qcow2 src.raw disk.img"
        let outcome = try fixture.shell("timeout -s TERM 0.5 \(convert)", linked: true)
        #expect(outcome.status == 124)
        #expect(try names() == [])
    }

    @Test("an interrupt removes what lies behind a link, and the link stays", arguments: ["INT", "TERM"])
    func link(signal: String) throws {
        try fixture.shell("mkdir sub; ln -s sub/real link; ln -s link again")
        _ = try fixture.shell(
            """
            \(CommandFixture.poll)
            # Without job control, a script's background jobs ignore Ctrl-C.
            set -m; platter convert -r 100k -m 1 -O qcow2 src.raw again & child=$!; set +m
            poll 'ls sub | grep -q .'
            kill -\(signal) $child; wait $child
            """, linked: true)
        #expect(try fixture.shell("ls sub; readlink again").output == "link\n")
        #expect(try fixture.platter("convert", "-O", "qcow2", "src.raw", "again").status == 0)
        #expect(try fixture.platter("compare", "sub/real", "src.raw").status == 0)
    }

    @Test("dd and create that are interrupted leave nothing", arguments: ["INT", "TERM"])
    func interruptedOthers(signal: String) throws {
        _ = try killed("platter dd -O qcow2 if=src.raw of=disk bs=1", by: signal)
        _ = try killed("platter create -f qcow2 -o preallocation=full made 1G", by: signal)
        let left = try names()
        #expect(left.allSatisfy { ["disk", "made"].contains($0) }, "\(left)")
    }

    @Test("a create without room leaves no file", arguments: ["raw", "qcow2", "luks", "parallels"])
    func failedCreate(format: String) throws {
        let outcome = try fixture.shell(
            """
            platter create -q -f \(format) -o preallocation=falloc x 8000P && platter info x
            """, linked: true)
        #expect(outcome.status != 0)
        #expect(try names() == [])
    }

    @Test("two conversions at once: the one that is first stays, whatever becomes of the other")
    func twoAtOnce() throws {
        let outcome = try fixture.shell(
            """
            platter convert -r 500k -m 1 src.raw disk & first=$!
            platter convert -r 800k -m 1 src.raw disk; echo $?
            wait $first; echo $?
            """, linked: true)
        #expect(outcome.output == "0\n1\n")
        #expect(outcome.error.contains("was made by another program meanwhile"), "\(outcome.error)")
        #expect(try names() == ["disk"])
        #expect(try fixture.platter("compare", "disk", "src.raw").status == 0)
    }

    @Test("a target that is there keeps its inode, links and mode; what fails empties it")
    func existing() throws {
        let outcome = try fixture.shell(
            """
            echo old > disk; chmod 600 disk; ln disk other; before=$(stat -c '%i %h %a' disk)
            platter convert -O qcow2 src.raw disk && [ "$(stat -c '%i %h %a' disk)" = "$before" ] || exit 9
            platter compare -q other src.raw || exit 8
            \(filling("-r 100k -O qcow2"))
            kill -TERM $child; wait $child
            echo $? $(stat -c '%i %h %a' disk | grep -c "$before") $(stat -c %s disk)
            """, linked: true)
        #expect(outcome.output == "143 1 0\n", "\(outcome.text)")
    }

    @Test(
        "a killed conversion into a file that was there leaves no image", arguments: ["qcow2", "vhdx", "qed"])
    func killedExisting(format: String) throws {
        try fixture.platter("create", "-q", "-f", format, "disk", "1M")
        _ = try fixture.shell(
            """
            \(filling("-r 100k -O \(format)"))
            kill -KILL $child; wait $child
            """, linked: true)
        #expect(try names() == ["disk"])
        #expect(try fixture.platter("info", "-f", format, "disk").status == 1)
        #expect(try fixture.platter("convert", "-O", format, "src.raw", "disk").status == 0)
        #expect(try fixture.platter("compare", "-f", format, "disk", "src.raw").status == 0)
    }

    @Test("a target in use is left as it is, and one that is being filled cannot be taken")
    func busy() throws {
        try fixture.write("disk", [UInt8](repeating: 7, count: 4096))
        let user = try FileDriver(opening: fixture.path("disk"), settings: OpenSettings(readOnly: false))
        for command in ["convert -O qcow2 src.raw disk", "create -q disk 1M", "dd if=src.raw of=disk"] {
            #expect(try fixture.shell("platter \(command)", linked: true).status == 1, "\(command)")
        }
        user.close()
        #expect(try fixture.read("disk") == [UInt8](repeating: 7, count: 4096))
        let outcome = try fixture.shell(
            """
            \(filling("-r 400k -O qcow2"))
            platter convert -O qcow2 src.raw disk; echo $?; wait $child; echo $?
            """, linked: true)
        #expect(outcome.output == "1\n0\n", "\(outcome.text)")
        #expect(try fixture.platter("compare", "disk", "src.raw").status == 0)
    }

    @Test("long names have room for the temporary one")
    func longName() throws {
        let name = String(repeating: "n", count: 250)
        #expect(try fixture.platter("create", "-q", "-f", "qcow2", name, "1M").status == 0)
        #expect(try names() == [name])
    }
}
