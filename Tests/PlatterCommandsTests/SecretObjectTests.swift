import BlockCore
import BlockTestSupport
import Testing

@testable import PlatterCommands

/// The secrets of `--object`.
@Suite struct SecretObjectTests {
    private static let key = "secret,id=k,data=MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=,format=base64"
    private static let vector = "MTIzNDU2Nzg5MDEyMzQ1Ng=="

    private func bytes(_ id: String, _ definitions: String...) throws -> [UInt8] {
        let secret = try CommandObjects(definitions).secretSource.secret(id)
        return secret.bytes.array
    }

    private func error(_ definitions: String...) -> BlockError? {
        do throws(BlockError) { _ = try CommandObjects(definitions) } catch { return error }
        return nil
    }

    @Test(arguments: [
        "secret,id=s,data=hunter2", "secret,id=s,data=hunter2,format=raw",
        "data=hunter2,qom-type=secret,id=s",
        "secret,id=s,data=aHVudGVyMg==,format=base64", "secret,id=s,data=aHVu dGVyMg==,format=base64",
        #"{"qom-type": "secret", "id": "s", "data": "hunter2"}"#,
    ])
    func data(_ definition: String) throws {
        #expect(try bytes("s", definition) == Array("hunter2".utf8))
    }

    @Test func commasAreDoubled() throws {
        #expect(try bytes("s", "secret,id=s,data=a,,b") == Array("a,b".utf8))
    }

    @Test func files() throws {
        let fixture = try CommandFixture()
        try fixture.write("pass", Array("line\n".utf8))
        try fixture.write("pass64", Array("AAH/\n".utf8))
        #expect(try bytes("s", "secret,id=s,file=\(fixture.path("pass"))") == Array("line\n".utf8))
        #expect(try bytes("s", "secret,id=s,file=\(fixture.path("pass64")),format=base64") == [0, 1, 255])
        #expect(error("secret,id=s,file=\(fixture.path("none"))")?.errno == 2)
    }

    /// Made by `printf 'open sesame' | openssl enc -aes-256-cbc -K ... -iv ... -base64`.
    @Test func encrypted() throws {
        let payload = "dXCOKFiRBNA4fbLxbXAPIA=="
        let plain = try bytes(
            "s", Self.key, "secret,id=s,data=\(payload),format=base64,keyid=k,iv=\(Self.vector)")
        #expect(plain == Array("open sesame".utf8))
    }

    @Test(arguments: [
        ("secret,data=x", "Parameter 'id' is missing"),
        ("secret", "Parameter 'id' is missing"),
        ("", "Parameter 'qom-type' is missing"),
        ("iothread,id=x", "invalid object type: iothread (there are: secret, throttle-group)"),
        ("secret,id=9k,data=x", "Parameter 'id' expects an identifier"),
        ("secret,id=x", "Either 'file' or 'data' must be provided"),
        ("secret,id=x,data=1,file=2", "'file' and 'data' are mutually exclusive"),
        ("secret,id=x,data=zz*,format=base64", "Base64 data contains invalid characters"),
        ("secret,id=x,data=zzzzz,format=base64", "Base64 data is not padded to groups of four characters"),
        ("secret,id=x,data=1,format=hex", "Parameter 'format' does not accept value 'hex'"),
        ("secret,id=x,data=1,foo=hex", "Parameter 'foo' is unexpected"),
        ("secret,id=k,data=1", "attempt to add duplicate property 'k' to object (type 'container')"),
        ("secret,id=x,data=1,keyid=no", "No secret with id 'no'"),
        ("secret,id=x,data=aaaa,keyid=k", "IV is required to decrypt secret"),
        ("secret,id=x,data=aaaa,keyid=k,iv=aaaa", "IV should be 16 bytes in length not 3"),
        ("secret,id=x,data=aaaa,keyid=k,iv=\(vector)", "Length 4 must be a multiple of block size 16"),
        (
            "secret,id=x,data=aaaabbbbccccdddd,keyid=k,iv=\(vector)",
            "Incorrect number of padding bytes (155) found on decrypted data"
        ),
    ])
    func refused(_ definition: String, _ message: String) {
        #expect(error(Self.key, definition)?.message == message)
    }

    @Test func theKeyIsOf32Bytes() {
        let error = error("secret,id=k,data=abc", "secret,id=x,data=aaaa,keyid=k,iv=\(Self.vector)")
        #expect(error?.message == "Key should be 32 bytes in length")
    }
}
