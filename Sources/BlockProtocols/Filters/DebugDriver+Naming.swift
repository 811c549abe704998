import BlockCore

extension DebugDriver {
    /// `blkdebug:CONFIG:FILE` where the rules come from a file of rules or there are none; options otherwise.
    static func naming(_ filename: String, _ options: OptionTree) -> NodeNaming {
        var options = options
        var image = FilterOpening.name(filename, for: name)
        if image.hasPrefix("\(name):"), let colon = image.dropFirst(name.count + 1).firstIndex(of: ":") {
            let config = image[..<colon].dropFirst(name.count + 1)
            if !config.isEmpty { options["config"] = String(config) }
            image = String(image[image.index(after: colon)...])
        }
        let below = FilterOpening.naming("image", filename: image, options)
        let own = options.keys.filter { $0 != "image" && !$0.hasPrefix("image.") }
        return NodeNaming(
            filter: name, options, inName: own, over: below, as: "image",
            prefix: "\(name):\(options["config"] ?? ""):")
    }
}
