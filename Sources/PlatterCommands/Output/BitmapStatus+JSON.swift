import BlockCore

extension BitmapStatus {
    /// The fields of QEMU's `BlockDirtyInfo`; `count` is in bytes.
    var json: InfoValue {
        var fields: [InfoField] = []
        if let name { fields.append(InfoField("name", .text(name))) }
        if isInconsistent { fields.append(InfoField("inconsistent", .flag(true))) }
        fields.append(InfoField("recording", .flag(isRecording)))
        fields.append(InfoField("persistent", .flag(isPersistent)))
        fields.append(InfoField("busy", .flag(isBusy)))
        fields.append(InfoField("granularity", .number(granularity)))
        fields.append(InfoField("count", .number(dirtyBytes)))
        return .object(fields)
    }
}
