"""Files that grew past the size at which to look for a seam. A report, not a finding."""

SEAM_LINES = 400


def report(tree):
    """Lines for people, the longest file first."""
    sizes = sorted(((tree.text(path).count("\n"), path) for path in tree.paths), reverse=True)
    long = [f"{lines:5} {path}" for lines, path in sizes if lines > SEAM_LINES]
    return long + [f"seams: {len(long)} files have more than {SEAM_LINES} lines"]
