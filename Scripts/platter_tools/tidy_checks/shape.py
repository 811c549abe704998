"""Size and shape: long files, long functions, wide lines, loose ends."""

import ast
import re

from . import swift_source

FILE_LINES = 600
FUNCTION_LINES = 60
COLUMNS = 110
LOOSE_END = re.compile(r"\b(?:TO" r"DO|FIX" r"ME)\b")
# A table is a function nine tenths of whose lines are one-line `case`s, list elements or lone brackets.
TABLE_LINE = re.compile(r"\s*(?:case\b.*:.*|.*,|[\])}\s]*)$")
TABLE_SHARE = 0.9


def files(tree):
    for path in tree.paths:
        lines = tree.text(path).split("\n")
        if len(lines) - 1 > FILE_LINES:
            yield path, len(lines) - 1, f"{len(lines) - 1} lines in a file, at most {FILE_LINES}"
        for number, line in enumerate(lines, 1):
            if len(line) > COLUMNS:
                yield path, number, f"{len(line)} columns, at most {COLUMNS}"
            if LOOSE_END.search(line):
                yield path, number, "a loose end: do it, or write it into an issue"


def functions(tree):
    for path in tree.paths:
        for name, line, length in swift_functions(tree, path) + python_functions(tree, path):
            if length > FUNCTION_LINES:
                yield path, line, f"'{name}' has {length} lines, at most {FUNCTION_LINES}"


def swift_functions(tree, path):
    if not path.endswith(".swift"):
        return []
    found = swift_source.functions(tree.code(path))
    return [(name, line, len(body)) for name, line, body in found if not is_table(body)]


def is_table(lines):
    lines = [line for line in lines if line.strip()]
    return sum(1 for line in lines if TABLE_LINE.match(line)) >= TABLE_SHARE * len(lines)


def python_functions(tree, path):
    if not (path.endswith(".py") or tree.text(path).startswith("#!/usr/bin/env python3")):
        return []
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(tree.text(path))) if isinstance(node, kinds)]
    return [(node.name, node.lineno, node.end_lineno - node.lineno + 1) for node in nodes]
