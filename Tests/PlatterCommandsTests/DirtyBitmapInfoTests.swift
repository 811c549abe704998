import BlockCore
import BlockFormats
import BlockTestSupport
import Foundation
import Testing

@testable import PlatterCommands

/// `info` of a live node lists its bitmaps in memory beside the stored ones.
@Suite struct DirtyBitmapInfoTests {
    @Test func bitmapsInMemoryAreListedWithTheStoredOnes() throws {
        let store = TestStore()
        let opener = ImageOpener(registry: store.registry(StandardFormats.all), policy: .anyFile)
        var options = try opener.createOptions(format: "qcow2", filename: "disk")
        try options.set(.size, to: "1048576")
        try opener.create("disk", format: "qcow2", options: options)
        let node = try opener.open("disk", format: "qcow2", settings: OpenSettings(readOnly: false))
        try node.changeBitmaps { driver throws(BlockError) in
            try driver.addBitmap("stored", granularity: 4096, isEnabled: true)
        }
        func text() throws -> String { JSONWriter.text(try ImageInfo(node, opener).json) }
        #expect(try !text().contains("dirty-bitmaps"))
        let bitmap = try node.addBitmap(named: "live", granularity: 65536)
        _ = try node.addBitmap(named: nil, isEnabled: false)
        try node.write([1, 2].span.bytes, at: 65535)
        _ = try bitmap.createSuccessor(for: "backup")
        let json = try text()
        let start = try #require(json.firstRange(of: "\"dirty-bitmaps\""))
        let words = json[start.lowerBound...].split(whereSeparator: { " \n".contains($0) }).joined()
        let expected =
            #""dirty-bitmaps":[{"recording":false,"persistent":false,"busy":false,"granularity":65536,"#
            + #""count":0},"#
            + #"{"name":"live","recording":true,"persistent":false,"busy":true,"granularity":65536,"#
            + #""count":131072},"#
            + #"{"name":"stored","recording":true,"persistent":true,"busy":false,"granularity":4096,"#
            + #""count":8192}]"#
        #expect(words.hasPrefix(expected), "\(words.prefix(500))")
        try node.close()
    }
}
