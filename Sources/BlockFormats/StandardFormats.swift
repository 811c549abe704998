import BlockCore

/// Every format that Platter knows. `raw` is last: it takes anything.
public enum StandardFormats {
    public static let all: [any FormatDriver.Type] = [Qcow2Driver.self, RawDriver.self]
}
