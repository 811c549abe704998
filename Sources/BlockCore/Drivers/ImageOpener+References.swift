/// The permission to open a file that an image names.
struct FileGrant: Sendable {
    /// The name from the working folder.
    var name: String
    /// The limits on the place of the file; `nil` for any place.
    var confinement: FileConfinement?
    fileprivate var request: OpenPolicy.Request
    fileprivate var opener: ImageOpener

    /// Asks whether the file, opened for reading, may be written to.
    ///
    /// - Throws: `denied`.
    func checkWriting() throws(BlockError) {
        var request = request
        request.isForWriting = true
        _ = try opener.grant(request, confinement?.imageIdentity, confinement?.imagePlace)
    }
}

/// The files that images name: the one place where the policy decides about them.
extension ImageOpener {
    /// The permission to open a file that `image` names, after asking the policy.
    ///
    /// - Throws: `denied`; `invalidArgument` for a name with a zero byte.
    func grant(
        _ name: String, of image: BlockNode, for role: OpenPolicy.Request.Role, writing: Bool = false
    ) throws(BlockError) -> FileGrant {
        guard !name.utf8.contains(0) else {
            throw BlockError(.invalidArgument, "A file name must not contain a zero byte", path: name)
        }
        let resolved = FileNames.resolve(name, relativeTo: image.filename)
        var request = OpenPolicy.Request(
            role: role, statedName: name, resolvedName: resolved, image: image.filename)
        request.isForWriting = writing
        return try grant(request, image.identity, image.filePlace)
    }

    /// The same for the first of several names that leads to a file; for the stated name when none does.
    ///
    /// - Parameter others: further names, tried also when the policy denies the stated one: files in the
    ///   image's folder belong to the image.
    func grant(
        _ name: String, orElse others: [String], of image: BlockNode, for role: OpenPolicy.Request.Role,
        writing: Bool = false
    ) throws(BlockError) -> FileGrant {
        let stated: FileGrant?
        var denial: BlockError?
        do throws(BlockError) {
            stated = try grant(name, of: image, for: role, writing: writing)
        } catch {
            (stated, denial) = (nil, error)
        }
        if let stated, others.isEmpty || leadsToFile(stated) { return stated }
        for other in others {
            guard let grant = try? grant(other, of: image, for: role, writing: writing) else { continue }
            if leadsToFile(grant) { return grant }
        }
        if let stated { return stated }
        throw denial ?? BlockError(.notFound, "No such file or directory", path: name)
    }

    /// Whether a file of that name exists, as far as a look without opening it shows.
    private func leadsToFile(_ grant: FileGrant) -> Bool {
        if registry.filter(named: nil, orBy: grant.name) != nil { return true }
        guard let (entry, path) = try? registry.resolve(grant.name) else { return false }
        guard let look = entry.look else { return true }
        do throws(BlockError) {
            _ = try look(path, grant.confinement)
            return true
        } catch {
            return error.kind != .notFound && error.kind != .denied && error.errno != Self.notAFolder
        }
    }

    /// ENOTDIR, which has the same number on all supported systems.
    private static let notAFolder: Int32 = 20

    fileprivate func grant(
        _ request: OpenPolicy.Request, _ identity: String?, _ place: String?
    ) throws(BlockError) -> FileGrant {
        let named = policy.named.all
        let verdict = policy.verdict(request)
        var confinement: FileConfinement?
        if verdict != .anywhere, !policy.names(request.resolvedName) {
            let isOptions = request.role == .backing && request.statedName.hasPrefix("json:")
            let isPlain = DriverRegistry.scheme(of: request.statedName) == nil
            guard isPlain || isOptions, verdict == .beneathImage || !named.isEmpty else {
                throw OpenPolicy.denial(request)
            }
            confinement = FileConfinement(
                request: request, isOfOptions: isOptions, allowsFolder: verdict == .beneathImage,
                imageIdentity: identity, imagePlace: place, named: named)
        }
        return FileGrant(
            name: request.resolvedName, confinement: confinement, request: request, opener: self)
    }

    /// Opens the image that `image` states as its backing file, without the backing images of that one.
    ///
    /// - Throws: `denied` by the policy; as ``open(_:format:settings:options:)``.
    public func openBacking(
        _ reference: BackingReference, of image: BlockNode, settings: OpenSettings
    ) throws(BlockError) -> BlockNode {
        let grant = try grant(
            reference.filename, orElse: reference.otherNames, of: image, for: .backing)
        var settings = settings
        settings.withoutBacking = true
        var path = OpenPath()
        path.confinement = grant.confinement
        return try open(
            grant.name, format: reference.format, settings: settings, options: OptionTree(), path: path)
    }

    /// The findings about the files that an open image names, its backing file last, without opening them.
    ///
    /// - Complexity: O(*named files*), with a look at each that is allowed.
    public func findings(of node: BlockNode) -> [FileFinding] {
        var references = node.references
        if let backing = node.format?.backing {
            references.append(
                FileReference(
                    role: "backing", purpose: .backing, statedName: backing.filename,
                    otherNames: backing.otherNames))
        }
        return references.map { finding($0, of: node) }
    }

    private func finding(_ reference: FileReference, of image: BlockNode) -> FileFinding {
        let name = FileNames.resolve(reference.statedName, relativeTo: image.filename)
        var finding = FileFinding(
            reference: reference, resolvedName: name, isAllowed: false, reason: "", size: nil)
        do throws(BlockError) {
            let grant = try grant(
                reference.statedName, orElse: reference.otherNames, of: image, for: reference.purpose)
            let name = grant.name
            finding.resolvedName = name
            try checkOptions(grant)
            finding.isAllowed = true
            finding.reason =
                grant.confinement != nil
                ? (grant.name.hasPrefix("json:") ? "its files are" : "it is") + " in the image's folder"
                : policy.names(name) ? "the user names it" : "the open policy allows any file"
            if let (entry, path) = try? registry.resolve(name), let look = entry.look {
                finding.size = try look(path, grant.confinement)
                if finding.size == nil { finding.reason += "; it is no regular file" }
            }
        } catch {
            finding.isAllowed = finding.isAllowed && error.kind != .denied
            finding.reason = error.kind == .denied ? denialReason(error, reference) : error.message
        }
        return finding
    }

    /// Checks the files of a `json:` name as opening them would, without opening them.
    ///
    /// - Throws: `denied`; `invalidArgument` for text that is not JSON.
    private func checkOptions(_ grant: FileGrant) throws(BlockError) {
        guard var confinement = grant.confinement, confinement.isOfOptions else { return }
        let options = try JSONReader.options(String(grant.name.dropFirst(5)))
        var count = 0
        for key in options.keys {
            let last = key.split(separator: ".").last
            guard let value = options[key], last == "driver" || last == "filename" else { continue }
            let filter =
                last == "driver"
                ? registry.filter(named: value, orBy: nil) : registry.filter(named: nil, orBy: value)
            if let filter { throw confinement.denial("which names the protocol '\(filter.name)'") }
            let entry = last == "driver" ? protocolEntry(value) : try registry.resolve(value).entry
            if let entry, entry.name != "file" {
                throw confinement.denial("which names the protocol '\(entry.name)'")
            }
            guard last == "filename", let look = entry?.look else { continue }
            count += 1
            let path = FileNames.withoutFileScheme(value)
            confinement.nameInOptions = path
            do throws(BlockError) { _ = try look(path, confinement) } catch {
                if error.kind == .denied { throw error }
            }
        }
        if count == 0 { throw confinement.denial("which names no file") }
    }

    private func protocolEntry(_ driver: String) -> ProtocolEntry? {
        registry.format(named: driver) == nil ? registry.protocolEntry(named: driver) : nil
    }

    private func denialReason(_ error: BlockError, _ reference: FileReference) -> String {
        DriverRegistry.scheme(of: reference.statedName) == nil
            ? error.message : "it is named by a protocol or options, which only the open policy 'any' allows"
    }
}
