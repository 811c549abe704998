import BlockTestSupport
import Foundation
import Testing

/// The names that `info` and `map` print: a file name where that says all, the options otherwise.
@Suite struct NodeNamingTests {
    let ours: CommandFixture
    let theirs: CommandFixture?

    init() throws {
        ours = try CommandFixture()
        theirs = Peer.isExpected ? try CommandFixture() : nil
        for fixture in [ours, theirs].compactMap({ $0 }) {
            let made = try fixture.shell(
                """
                set -e; mkdir d; printf '[inject-error]\\nevent = "read_aio"\\n' > cfg
                qemu-img create -q -f raw base.raw 1M; qemu-img create -q -f qcow2 -b base.raw -F raw a.qcow2
                qemu-img create -q -f qcow2 ./a:b 1M; qemu-img create -q -f vpc v.vpc 1M
                (cd d; qemu-img create -q -f qcow2 -b ../base.raw -F raw o.qcow2)
                w='{"driver":"raw","offset":512,"file":{"driver":"file","filename":"base.raw"}}'
                qemu-img create -q -f qcow2 -F raw -b "json:$w" j.qcow2
                qemu-io -f qcow2 -c 'write -q 0 64k' d/o.qcow2; qemu-io -f raw -c 'write -q 0 4k' base.raw
                """, linked: true)
            guard made.status == 0 else { throw Mismatch(made.text) }
        }
    }

    static let info: [(arguments: String, name: String)] = [
        ("./a:b", "./a:b"), ("file:a:b", "./a:b"), ("file:a.qcow2", "a.qcow2"),
        ("--image-opts driver=qcow2,file.filename=a.qcow2,lazy-refcounts=on", "a.qcow2"),
        ("--image-opts driver=file,filename=a.qcow2,locking=off", "a.qcow2"),
        (
            "--image-opts driver=raw,offset=512,file.filename=./a:b",
            #"json:{"offset": "512", "driver": "raw", "file": {"driver": "file", "filename": "./a:b"}}"#
        ),
        (
            #"'json:{"driver":"raw","size":1024,"offset":"1k","file":{"filename":"a.qcow2"}}'"#,
            #"json:{"offset": "1k", "driver": "raw", "size": 1024, "#
                + #""file": {"driver": "file", "filename": "a.qcow2"}}"#
        ),
        (
            "--image-opts driver=qcow2,file.driver=raw,file.file.filename=a.qcow2",
            #"json:{"driver": "qcow2", "#
                + #""file": {"driver": "raw", "file": {"driver": "file", "filename": "a.qcow2"}}}"#
        ),
        (
            "--image-opts driver=vpc,force_size_calc=chs,file.filename=v.vpc",
            #"json:{"force_size_calc": "chs", "driver": "vpc", "#
                + #""file": {"driver": "file", "filename": "v.vpc"}}"#
        ),
        ("--image-opts driver=null-co", "null-co://"),
        (
            #"'json:{"driver":"null-co","size":65536,"read-zeroes":true}'"#,
            #"json:{"read-zeroes": true, "driver": "null-co", "size": 65536}"#
        ),
        ("blkdebug::a.qcow2", "blkdebug::a.qcow2"),
        (
            "--image-opts driver=qcow2,file.driver=blkdebug,file.config=cfg,file.image.filename=a.qcow2",
            "blkdebug:cfg:a.qcow2"
        ),
    ]

    @Test(arguments: info) func infoNamesImages(_ item: (arguments: String, name: String)) throws {
        let line = "qemu-img info \(item.arguments)"
        for (fixture, linked) in [(ours, true), (theirs, false)] {
            guard let fixture else { continue }
            let outcome = try fixture.shell(line, linked: linked)
            #expect(outcome.output.hasPrefix("image: \(item.name)\n"), "\(outcome.text)")
        }
    }

    private func same(_ line: String, _ pick: (String) -> [String]) throws -> [String] {
        let mine = pick(try ours.shell(line, linked: true).text)
        if let theirs { #expect(mine == pick(try theirs.shell(line).text), "\(line)") }
        return mine
    }

    /// The backing file of a filtered image is meant from the image's folder, and not filtered itself.
    @Test func chains() throws {
        let names = { (text: String) in
            text.split(separator: "\n").map(String.init).filter {
                $0.hasPrefix("image: ") || $0.hasPrefix("backing file: ")
            }
        }
        #expect(
            try same("qemu-img info --backing-chain blkdebug::d/o.qcow2", names) == [
                "image: blkdebug::d/o.qcow2", "backing file: ../base.raw (actual path: d/../base.raw)",
                "image: d/../base.raw",
            ])
        let window = #"{"offset": 512, "driver": "raw", "file": {"driver": "file", "filename": "base.raw"}}"#
        #expect(try same("qemu-img info --backing-chain j.qcow2", names).last == "image: json:\(window)")
        #expect(
            try same("qemu-img info ./d/o.qcow2", names).last
                == "backing file: ../base.raw (actual path: ./d/../base.raw)")
    }

    @Test func mapNamesFiles() throws {
        let lines = { (text: String) in text.split(separator: "\n").map(String.init) }
        let filtered = try same("qemu-img map blkdebug::d/o.qcow2", lines).last
        #expect(filtered?.hasSuffix("blkdebug::d/o.qcow2") == true)
        #expect(try same("qemu-img map j.qcow2", lines).count == 2)
        let nested =
            "qemu-img map --image-opts "
            + "driver=qcow2,file.driver=raw,file.offset=0,file.file.filename=d/o.qcow2"
        #expect(
            try same(nested, lines).last?.hasSuffix(
                #"json:{"offset": "0", "driver": "raw", "file": {"driver": "file", "filename": "d/o.qcow2"}}"#
            )
                == true)
        #expect(
            try same("qemu-img info file:a:c", lines)
                == ["qemu-img: Could not open 'file:a:c': Could not open './a:c': No such file or directory"])
    }
}
