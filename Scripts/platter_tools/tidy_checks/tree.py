"""The files that tidy looks at."""

import functools
import json
import os
import re
import subprocess

from . import swift_source

FOLDERS = ("Sources", "Tests", "Scripts")
# The rules of `swift format` that documented.py narrows down to what is public here.
DOCUMENTATION_RULES = (
    "AllPublicDeclarationsHaveDocumentation", "BeginDocumentationCommentWithOneLineSummary")
LINT_LINE = re.compile(r"(.+?):(\d+):\d+: (?:warning|error): \[(\w+)\] (.*)")


class Tree:
    """A checkout; every path is relative to its top."""

    def __init__(self, root):
        self.root = root

    @functools.cached_property
    def paths(self):
        """The source files, of every language; fixtures and what git ignores are left out."""
        found = []
        for top in FOLDERS:
            for folder, folders, files in os.walk(os.path.join(self.root, top)):
                folders[:] = sorted(set(folders) - {"Fixtures", ".build", "__pycache__"})
                found += [os.path.relpath(os.path.join(folder, name), self.root) for name in sorted(files)]
        return ["Package.swift"] * self.exists("Package.swift") + found

    def swift(self, under=""):
        return [path for path in self.paths if path.endswith(".swift") and path.startswith(under)]

    def exists(self, path):
        return os.path.exists(os.path.join(self.root, path))

    @functools.lru_cache(maxsize=None)
    def text(self, path):
        with open(os.path.join(self.root, path), encoding="utf-8") as file:
            return file.read()

    @functools.lru_cache(maxsize=None)
    def code(self, path):
        """A Swift file without comments and the contents of strings."""
        return swift_source.code_of(self.text(path))

    def matches(self, pattern, path):
        """Where `pattern` matches the code of a Swift file: (line, match)."""
        code = self.code(path)
        for match in re.finditer(pattern, code):
            yield code.count("\n", 0, match.start()) + 1, match

    @functools.cached_property
    def lint(self):
        """What `swift format lint` finds: (path, line, rule, text). A line of another shape has no rule."""
        paths = self.swift()
        if not paths:
            return []
        settings = json.loads(self.text(".swift-format")) if self.exists(".swift-format") else {"version": 1}
        settings["rules"] = settings.get("rules", {}) | {rule: True for rule in DOCUMENTATION_RULES}
        run = subprocess.run(
            ["swift", "format", "lint", "--strict", "--parallel", "--configuration", json.dumps(settings)]
            + paths,
            cwd=self.root, capture_output=True, text=True, check=False)
        if not run.returncode:
            return []
        lines = (run.stderr or f"swift format failed: {run.returncode}").splitlines()
        return [self.lint_finding(line) for line in lines]

    @staticmethod
    def lint_finding(line):
        match = LINT_LINE.match(line)
        return (match[1], int(match[2]), match[3], match[4]) if match else ("", 0, "", line)

    def formatter_findings(self):
        """What `swift format lint --strict` has to say, but for its rules for documentation."""
        return [
            f"{path}:{line}: [{rule}] {text}" if rule else text
            for path, line, rule, text in self.lint if rule not in DOCUMENTATION_RULES]
