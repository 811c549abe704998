"""Public declarations have a comment; formats and commands have a page and a test."""

import re

from . import swift_source

MODIFIERS = r"(?:(?:static|final|class|mutating|nonisolated|convenience|consuming|borrowing)[ \t]+)*"
THROWING = re.compile(
    r"(?m)^[ \t]*(?:@[\w.]+(?:\([^)]*\))?\s+)*(?:public|open)[ \t]+" + MODIFIERS
    + r"(func|init|var|subscript)\b[?]?[ \t]*(\w*|[^\s\w]+)")
# Requirements of the standard library's protocols; those of ours are read from the sources.
STANDARD = {
    "hash", "encode", "next", "makeIterator", "index", "callAsFunction", "makeAsyncIterator", "rawValue",
    "description", "startIndex", "endIndex",
}


def comments(tree):
    """Public declarations, by the rules of `swift format`, less those that a protocol documents."""
    requirements = STANDARD | requirement_names(tree)
    for path, line, rule, text in tree.lint:
        if not path.startswith("Sources/"):
            continue
        if rule == "AllPublicDeclarationsHaveDocumentation":
            name = re.search(r"'(\S+?)[\s'(]", text)[1]
            signature = tree.text(path).split("\n")[line - 1]
            inherited = name in requirements or not name.isidentifier() or "init(rawValue" in signature
            if not inherited:
                yield path, line, f"public {name} has no doc comment"
        elif rule == "BeginDocumentationCommentWithOneLineSummary" and is_public(tree, path, line):
            yield path, line, f"the comment begins with no summary of one sentence: {text}"


def requirement_names(tree):
    return set().union(*(protocol_names(tree.code(path)) for path in tree.swift()))


def protocol_names(code):
    names = set()
    for match in re.finditer(r"\bprotocol\s+\w+[^{]*\{", code):
        body = code[match.end() - 1:swift_source.matching(code, match.end() - 1)]
        names.update(re.findall(r"\b(?:func|var)\s+(\w+)", body))
    return names


def is_public(tree, path, line):
    """Whether the declaration at `line` is public by its own word."""
    lines = tree.text(path).split("\n")
    while lines[line - 1].lstrip().startswith("@") and "public" not in lines[line - 1]:
        line += 1
    return bool(re.search(r"\b(?:public|open)\b", lines[line - 1]))


def errors(tree):
    """Public declarations that throw say which kinds; `swift format` asks that of long comments only."""
    requirements = STANDARD | requirement_names(tree)
    for path in tree.swift("Sources/"):
        code, lines = tree.code(path), tree.text(path).split("\n")
        for match in THROWING.finditer(code):
            first = match.start() + len(match.group()) - len(match.group().lstrip())
            line = code.count("\n", 0, first)
            if match[2] not in requirements and throws(code, match) and "Throws:" not in comment(lines, line):
                yield path, line + 1, f"public {match[2] or match[1]} has no '- Throws:'"


def throws(code, match):
    """Whether the signature, or a variable's getter, says `throws`."""
    end, depth = match.end(), 0
    while end < len(code) and (depth or code[end] not in "{\n"):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(code[end], 0)
        end += 1
    if match[1] == "var":
        return bool(re.match(r"\{\s*get\s+throws", code[end:]))
    return bool(re.search(r"\)\s*(?:async\s+)?throws\b[^)]*(?:\([^()]*\))?[^()]*$", code[match.start():end]))


def comment(lines, index):
    """The doc comment above line `index`, attributes and conditions aside."""
    found = []
    while index > 0 and lines[index - 1].lstrip().startswith(("///", "@", "#if")):
        index -= 1
        found.append(lines[index])
    return "\n".join(found)


def formats(tree):
    """Every format of the registry: a page, and a test that puts it through the conformance suite."""
    registry = "Sources/BlockFormats/StandardFormats.swift"
    drivers = re.findall(r"(\w+)\.self", tree.code(registry)) if tree.exists(registry) else []
    tests = [tree.text(path) for path in tree.swift("Tests/") 
             if "checkFormatDriver(" in tree.text(path) or "checkReadOnlyFormat(" in tree.text(path)]
    for driver in drivers:
        name = driver_name(tree, driver, "Sources/BlockFormats/")
        if name is None:
            yield registry, 1, f"{driver} states no name as a plain string"
            continue
        if not tree.exists(f"docs/formats/{name}.md"):
            yield registry, 1, f"format {name} has no page docs/formats/{name}.md"
        if not any(re.search(rf"\b{driver}\b|\"{name}\"", test) for test in tests):
            yield registry, 1, f"no test calls checkFormatDriver or checkReadOnlyFormat for {driver} ({name})"


def filters(tree):
    """Every filter of the registry has a page."""
    registry = "Sources/BlockFilters/StandardFilters.swift"
    drivers = re.findall(r"(\w+)\.self", tree.code(registry)) if tree.exists(registry) else []
    for driver in drivers:
        name = driver_name(tree, driver, "Sources/BlockFilters/")
        if name is None:
            yield registry, 1, f"{driver} states no name as a plain string"
        elif not tree.exists(f"docs/filters/{name}.md"):
            yield registry, 1, f"filter {name} has no page docs/filters/{name}.md"


def driver_name(tree, driver, folder):
    """The `static let name = "..."` in the file that declares the driver."""
    for path in tree.swift(folder):
        text = tree.text(path)
        if re.search(rf"\b(?:class|struct|actor)\s+{driver}\b", tree.code(path)):
            found = re.search(r"static\s+(?:let|var)\s+name\s*(?::\s*String)?\s*[={]\s*\"([\w-]+)\"", text)
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
