"""The files that tidy looks at."""

import functools
import os
import re
import subprocess

from . import swift_source

FOLDERS = ("Sources", "Tests", "Scripts")


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

    def formatter_findings(self):
        """What `swift format lint --strict` has to say."""
        paths = self.swift()
        if not paths:
            return []
        run = subprocess.run(
            ["swift", "format", "lint", "--strict", "--parallel", "--configuration", ".swift-format", *paths],
            cwd=self.root, capture_output=True, text=True, check=False)
        return (run.stderr or f"swift format failed: {run.returncode}").splitlines() if run.returncode else []
