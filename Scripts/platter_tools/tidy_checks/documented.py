"""Public declarations have a comment; formats and commands have a page and a test."""

import re

from . import swift_source

MODIFIERS = r"(?:(?:static|final|class|mutating|nonisolated|consuming|borrowing|indirect)[ \t]+)*"
PUBLIC = r"(?m)^[ \t]*(?:@[\w.]+(?:\([^)]*\))?\s+)*(?:public|open)[ \t]+" + MODIFIERS \
    + r"(struct|class|enum|protocol|actor|typealias|func)[ \t]+(\w+|[^\s\w]+)"
# Requirements of the standard library's protocols; those of ours are read from the sources.
STANDARD = {"hash", "encode", "next", "makeIterator", "index", "callAsFunction", "makeAsyncIterator"}


def comments(tree):
    """Types and functions. A function that answers a protocol's requirement is documented there."""
    requirements = STANDARD | set().union(*(protocol_functions(tree.code(path)) for path in tree.swift()))
    for path in tree.swift("Sources/"):
        lines = tree.text(path).split("\n")
        for line, match in tree.matches(PUBLIC, path):
            kind, name = match[1], match[2]
            line += match.group().count("\n", 0, len(match.group()) - len(match.group().lstrip()))
            inherited = kind == "func" and (name in requirements or not name.isidentifier())
            if not inherited and not has_comment(lines, line - 1):
                yield path, line, f"public {kind} {name} has no doc comment"


def protocol_functions(code):
    names = set()
    for match in re.finditer(r"\bprotocol\s+\w+[^{]*\{", code):
        body = code[match.end() - 1:swift_source.matching(code, match.end() - 1)]
        names.update(re.findall(r"\bfunc\s+(\w+)", body))
    return names


def has_comment(lines, index):
    """Whether a doc comment ends above line `index`, attributes and conditions aside."""
    while index > 0:
        index -= 1
        line = lines[index].strip()
        if line.startswith("///") or line.endswith("*/"):
            return True
        if not line.startswith(("@", "#if")):
            return False
    return False


def formats(tree):
    """Every format of the registry: a page, and a test that puts it through the conformance suite."""
    registry = "Sources/BlockFormats/StandardFormats.swift"
    drivers = re.findall(r"(\w+)\.self", tree.code(registry)) if tree.exists(registry) else []
    tests = [tree.text(path) for path in tree.swift("Tests/") 
             if "checkFormatDriver(" in tree.text(path) or "checkReadOnlyFormat(" in tree.text(path)]
    for driver in drivers:
        name = format_name(tree, driver)
        if name is None:
            yield registry, 1, f"{driver} states no name as a plain string"
            continue
        if not tree.exists(f"docs/formats/{name}.md"):
            yield registry, 1, f"format {name} has no page docs/formats/{name}.md"
        if not any(re.search(rf"\b{driver}\b|\"{name}\"", test) for test in tests):
            yield registry, 1, f"no test calls checkFormatDriver or checkReadOnlyFormat for {driver} ({name})"


def format_name(tree, driver):
    """The `static let name = "..."` in the file that declares the driver."""
    for path in tree.swift("Sources/BlockFormats/"):
        text = tree.text(path)
        if re.search(rf"\b(?:class|struct|actor)\s+{driver}\b", tree.code(path)):
            found = re.search(r"static\s+(?:let|var)\s+name\s*(?::\s*String)?\s*[={]\s*\"(\w+)\"", text)
            return found[1] if found else None
    return None


def commands(tree):
    """Every subcommand of the program has a page, which is its man page too."""
    for path in tree.swift("Sources/PlatterCommands/"):
        if "enum CommandList" not in tree.code(path):
            continue
        for line, text in enumerate(tree.text(path).split("\n"), 1):
            for name in re.findall(r"\(\"(\w+)\", \w+\.self\)", text):
                if not tree.exists(f"docs/commands/{name}.md"):
                    yield path, line, f"command {name} has no page docs/commands/{name}.md"
