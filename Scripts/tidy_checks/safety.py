"""What can trap in code that reads strangers' bytes, and imports that break the layering."""

PARSERS = "Sources/BlockFormats/"
RAW_POINTER = "a raw pointer"
# A number of that many bits as an image states it.
LOAD = r"(?:(?:big|little)Endian\(UInt(?:%s)\.self|number(?:%s)\()"
UNCHECKED = r"\((?!exactly:|truncatingIfNeeded:|clamping:)[^()\n]*\."
# Each can end the process, or go past a check, on bytes that somebody else chose. (Wrapping operators do not
# trap, and feed bounds-checked look-ups.)
TRAPS = {
    r"\btry!": "try!",
    r"\bas!": "as!",
    r"(?<=[\w)\]}>\"`?])!(?![=\w])": "a forced unwrap",
    r"\b(?:fatalError|precondition(?:Failure)?)\s*\(": "a trap",
    r"\b(?:unsafelyUnwrapped|unsafeBitCast|unsafeDowncast|unowned\(unsafe\))": "an unchecked cast",
    r"\b(?:assumingMemoryBound|bindMemory)\b": RAW_POINTER,
    r"\bU?Int" + UNCHECKED + LOAD % ("64", "64"): "an unchecked conversion",
    r"\bU?Int(?:8|16|32)" + UNCHECKED + LOAD % ("32|64", "64"): "an unchecked conversion",
    LOAD % ("64", "64") + r"[^()\n]*\)(?: \?\? \w+)?\)* [-+*] ": "unchecked arithmetic on a stated number",
}
# A target may import those of ours that have a lower number.
LAYERS = {
    "BlockCore": 0, "BlockProtocols": 1, "BlockFilters": 1, "BlockFormats": 1, "BlockJobs": 2,
    "PlatterCommands": 3, "platter": 4,
}
# Each is called from one Swift file.
C_LIBRARIES = {"CZlib", "CZstd", "CDeflate", "CCrypto", "CBzip2", "CLzma"}
IMPORT = r"(?m)^[ \t]*(?:@\w+[ \t]+)*(?:(?:public|package|internal|private|fileprivate)[ \t]+)?" \
    r"import[ \t]+(?:(?:func|struct|class|enum|protocol|let|var|typealias)[ \t]+)?(\w+)"


def traps(tree):
    for path in tree.swift(PARSERS):
        for pattern, what in TRAPS.items():
            for line, match in tree.matches(pattern, path):
                # Calling a C library takes raw pointers; they stay in the file that calls it.
                if what != RAW_POINTER or not calls_a_library(tree, path):
                    yield path, line, f"{what} ('{match.group().strip()}') in a format parser"


def calls_a_library(tree, path):
    return any(match[1] in C_LIBRARIES for _, match in tree.matches(IMPORT, path))


def imports(tree):
    users = {}
    for path in tree.swift("Sources/"):
        target = path.split("/")[1]
        for line, match in tree.matches(IMPORT, path):
            module = match[1]
            users.setdefault(module, []).append((path, line))
            if module in LAYERS and LAYERS[module] >= LAYERS.get(target, 0):
                yield path, line, f"{target} must not import {module}: imports point downward"
            if module == "Foundation":
                yield path, line, "Foundation costs ten milliseconds of start-up; not under Sources"
    for module in C_LIBRARIES & users.keys():
        for path, line in users[module][1:]:
            yield path, line, f"{module} is called from {users[module][0][0]} alone"
