"""The table of roles and formats in docs/architecture.md names files that exist, and leaves none out."""

import os
import re

PAGE = "docs/architecture.md"
HEADING = "## Roles and formats"
FORMATS = ("Vdi", "Parallels", "Qed", "Qcow", "Vhdx", "Vmdk", "Vhd", "Qcow2")
ROLES = (
    "Name", "Header", "State", "Mapping", "Driver", "Create", "Survey", "Repair", "Resize", "Rebase", "Info",
)
ROW = re.compile(r"\|(.*)\|\s*$")


def table(tree):
    """Every format has its row, every cell a file of that format or `-`; no file of a role is left out."""
    if not tree.exists(PAGE):
        return
    rows = stated_rows(tree)
    head = rows.pop("Format", (1, []))
    if tuple(head[1]) != ROLES:
        yield PAGE, head[0], f"no table of roles under '{HEADING}': Scripts/tidy --roles prints it"
        return
    for name in FORMATS:
        if name not in rows:
            yield PAGE, head[0], f"no row for {name}"
    for name, (line, cells) in rows.items():
        yield from row_findings(tree, name, line, cells)


def stated_rows(tree):
    """The rows of the page's table: first cell to line number and other cells."""
    lines = tree.text(PAGE).split("\n") if tree.exists(PAGE) else []
    return dict(rows_below(lines, lines.index(HEADING) + 1)) if HEADING in lines else {}


def rows_below(lines, start):
    """The rows of the first table from line `start` on: first cell, then line number and other cells."""
    inside = False
    for number, line in enumerate(lines[start:], start + 1):
        row = ROW.match(line)
        if not row and (inside or line.startswith("#")):
            return
        if not row:
            continue
        inside = True
        cells = [cell.strip() for cell in row[1].split("|")]
        if set(cells[0]) - set("-: "):
            yield cells[0].strip("`"), (number, cells[1:])


def row_findings(tree, name, line, cells):
    if name not in FORMATS:
        yield PAGE, line, f"{name} is none of the formats {' '.join(FORMATS)}"
        return
    if len(cells) != len(ROLES):
        yield PAGE, line, f"the row of {name} has {len(cells)} cells, not {len(ROLES)}"
        return
    there = files_of(tree, name)
    for role, cell in zip(ROLES, cells):
        stated = re.findall(r"[\w+]+", cell)
        for file in stated:
            if file not in there:
                yield PAGE, line, f"{name} has no file {file}.swift ({role})"
        wanted = file_name(name, role)
        if wanted in there and wanted not in stated:
            yield PAGE, line, f"the cell {role} of {name} does not name {wanted}"


def file_name(name, role):
    """The file in which a format's role is looked for first."""
    return name if role == "Name" else name + role


def files_of(tree, name):
    """The names, without `.swift`, of the files in a format's folder and the folders in it."""
    under = f"Sources/BlockFormats/{name}/"
    return {os.path.basename(path)[:-len(".swift")] for path in tree.swift(under)}


def report(tree):
    """The table as the names of the files have it. Files that the page names besides these stay in it."""
    stated = stated_rows(tree)
    lines = [HEADING, "", "| Format | " + " | ".join(ROLES) + " |", "|---" * (len(ROLES) + 1) + "|"]
    for name in FORMATS:
        there = files_of(tree, name)
        cells = stated.get(name, (0, []))[1] or [""] * len(ROLES)
        files = [[file_name(name, role)] + re.findall(r"[\w+]+", cell) for role, cell in zip(ROLES, cells)]
        kept = [", ".join(dict.fromkeys(file for file in cell if file in there)) or "-" for cell in files]
        lines.append(f"| {name} | " + " | ".join(kept) + " |")
    return lines
