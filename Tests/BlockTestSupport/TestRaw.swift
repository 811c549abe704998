import BlockCore
import BlockFormats

/// The format of the backing files that the suite makes.
enum TestRaw {
    static let format: any FormatDriver.Type = RawDriver.self
}
