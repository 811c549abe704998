"""The table of the driver interface in docs/block-interface.md names declarations and tests that exist."""

import re

PAGE = "docs/block-interface.md"
NAME = re.compile(r"`([^`]*)`")
TYPE = r"\b(?:class|struct|enum|protocol|actor|typealias|extension)[ \t]+"
MEMBER = r"\b(?:func|var|let|case|typealias|struct|enum|class)[ \t]+"
# A row without a name of ours begins so, and says why.
NONE = "none: "


def table(tree):
    """Every row names at least one declaration under Sources and one test; every name is there."""
    if not tree.exists(PAGE):
        return
    sources, tests = (Declarations(tree, tree.swift(folder)) for folder in ("Sources/", "Tests/"))
    for number, cells in rows(tree.text(PAGE)):
        if len(cells) != 3:
            yield PAGE, number, f"a row of {len(cells)} cells instead of QEMU's name, ours and the test"
            continue
        ours, held = NAME.findall(cells[1]), NAME.findall(cells[2])
        if not ours and not cells[1].startswith(NONE):
            yield PAGE, number, f"{cells[0]} has no name of ours, and no '{NONE}'"
        if ours and not held:
            yield PAGE, number, f"{cells[0]} names no test"
        for where, names, known in (("Sources", ours, sources), ("Tests", held, tests)):
            for name in names:
                if not known.has(name):
                    yield PAGE, number, f"'{name}' is declared nowhere under {where}"


def rows(text):
    """The rows of all tables but their heads: line number and cells."""
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.startswith("|") or line.startswith("|-"):
            continue
        if not lines[number:] or not lines[number].startswith("|-"):
            yield number, [cell.strip() for cell in line.strip().strip("|").split("|")]


class Declarations:
    """What a group of files declares."""

    def __init__(self, tree, paths):
        self.code = [tree.code(path) for path in paths]

    def has(self, name):
        """Whether `Type`, `Type.member` or `Type.member(label:)` is declared, in one file with its type."""
        kind, _, member = name.partition("(")[0].partition(".")
        pattern = re.compile(TYPE + rf"(?:\w+\.)*{re.escape(kind)}\b")
        return any(pattern.search(code) and declares(code, member) for code in self.code)


def declares(code, member):
    if not member or (member == "init" and re.search(r"\binit[?]?[(<]", code)):
        return True
    listed = rf"\bcase[^\n]*,[ \t]*{re.escape(member)}\b"
    return bool(re.search(MEMBER + rf"`?{re.escape(member)}\b", code) or re.search(listed, code))
