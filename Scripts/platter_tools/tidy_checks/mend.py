"""What can be mended without thought: layout, and comments that are too wide."""

import os
import re
import subprocess
import textwrap

from .shape import COLUMNS

COMMENT = re.compile(r"(?P<margin>\s*)(?P<marks>///?) (?P<text>\S.*)$")
ITEM = re.compile(r"(?:- |\d+\. )")


def layout(tree):
    """Runs swift format over all Swift files, then wraps comments."""
    subprocess.run(
        ["swift", "format", "--in-place", "--parallel", "--configuration", ".swift-format", *tree.swift()],
        cwd=tree.root, check=True)
    for path in tree.swift():
        full = os.path.join(tree.root, path)
        with open(full, encoding="utf-8") as file:
            before = file.read()
        after = wrap_comments(before)
        if after != before:
            with open(full, "w", encoding="utf-8") as file:
                file.write(after)


def wrap_comments(text):
    """Wraps each paragraph of line comments that has a line too wide, from that line on."""
    lines, out, at = text.split("\n"), [], 0
    while at < len(lines):
        match = COMMENT.match(lines[at])
        if not match or len(lines[at]) <= COLUMNS:
            out.append(lines[at])
            at += 1
            continue
        end = at + 1
        while end < len(lines) and continues(lines[end], match):
            end += 1
        words = " ".join(COMMENT.match(line)["text"].rstrip() for line in lines[at:end])
        prefix = f"{match['margin']}{match['marks']} "
        hanging = prefix + ("  " if ITEM.match(match["text"]) else "")
        out += textwrap.wrap(
            words, COLUMNS, initial_indent=prefix, subsequent_indent=hanging, break_long_words=False,
            break_on_hyphens=False)
        at = end
    return "\n".join(out)


def continues(line, first):
    """Whether `line` is of the same paragraph of the same comment."""
    match = COMMENT.match(line)
    same = match and (match["margin"], match["marks"]) == (first["margin"], first["marks"])
    return bool(same) and not ITEM.match(match["text"]) and not match["text"].startswith(("```", "|"))
