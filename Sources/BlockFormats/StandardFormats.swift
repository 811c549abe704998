import BlockCore

/// Every format that Platter knows.
///
/// `raw` is last: it matches any file.
public enum StandardFormats {
    /// The formats, in the order in which they are listed; `raw` is last.
    public static let all: [any FormatDriver.Type] = [
        Qcow2Driver.self, QcowDriver.self, LuksDriver.self, QedDriver.self, VdiDriver.self, VhdDriver.self,
        VhdxDriver.self, BochsDriver.self, CloopDriver.self, ParallelsDriver.self, DmgDriver.self,
        VmdkDriver.self, AsifDriver.self,
        RawDriver.self,
    ]

    /// The format of a new image when the user names none.
    public static let defaultName = RawDriver.name
}
