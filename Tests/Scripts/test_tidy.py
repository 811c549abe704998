"""Tidy finds what it is there to find, and nothing in clean files."""

import os
import shutil
import sys
import tempfile
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path.insert(0, os.path.join(TOP, "Scripts"))
from platter_tools.tidy_checks import documented, interface, mend, roles, safety, seams, shape  # noqa: E402
from platter_tools.tidy_checks.swift_source import code_of, functions  # noqa: E402
from platter_tools.tidy_checks.tree import Tree  # noqa: E402

PARSER = "Sources/BlockFormats/Vdi/VdiHeader.swift"
LOOSE = "TO" + "DO"


class TidyCase(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="tidy-")
        self.addCleanup(shutil.rmtree, self.root)

    def write(self, path, text):
        full = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as file:
            file.write(text)

    def found(self, check, path=PARSER, text=""):
        self.write(path, text)
        return [what for _, _, what in check(Tree(self.root))]

    def assert_found(self, word, *arguments):
        self.assertIn(word, "\n".join(self.found(*arguments)))

    def assert_clean(self, *arguments):
        self.assertEqual(self.found(*arguments), [])


class Shape(TidyCase):
    def test_long_file(self):
        self.assert_found("601 lines", shape.files, PARSER, "let a = 1\n" * 601)
        self.assert_clean(shape.files, PARSER, "let a = 1\n" * 600)

    def test_wide_line(self):
        self.assert_found("111 columns", shape.files, PARSER, "a" * 111)
        self.assert_clean(shape.files, PARSER, "a" * 110)

    def test_loose_end(self):
        self.assert_found("loose end", shape.files, PARSER, f"// {LOOSE}: later\n")
        self.assert_clean(shape.files, PARSER, f"// {LOOSE}ist\n")
        self.assert_found("loose end", shape.files, "Scripts/x.py", f"# {LOOSE}\n")

    def test_long_function(self):
        body = "    work(1)\n" * 59
        self.assert_found("'f' has 61 lines", shape.functions, PARSER, "func f() {\n" + body + "}\n")
        self.assert_clean(shape.functions, PARSER, "func f() {\n" + body[12:] + "}\n")

    def test_long_initialiser_property_and_python(self):
        body = "    work(1)\n" * 60
        for head in ("init(a: () -> Void = {})", "var text: String", "subscript(a: Int) -> Int", "deinit",
                     "func f<T>(_ a: T) throws(E) -> Int where T: P"):
            self.assert_found("has 62 lines", shape.functions, PARSER, head + " {\n" + body + "}\n")
        self.assert_found("'f' has 61 lines", shape.functions, "Scripts/x.py", "def f():\n" + body)

    def test_table(self):
        cases = "".join(f"    case {n}: return \"x\"\n" for n in range(100))
        table = f"func f(n: Int) -> String {{\n    switch n {{\n{cases}    }}\n}}\n"
        self.assert_clean(shape.functions, PARSER, table)

    def test_requirement_is_no_function(self):
        body = "    work(1)\n" * 60
        source = "protocol P {\n    func f()\n    func g()\n}\nlet a = {\n" + body + "}\n"
        self.assertEqual(list(functions(source)), [])


class Safety(TidyCase):
    def test_traps(self):
        for line in ("let a = try! f()", "let a = b as! C", "let a = b!", "let a = b[0]!.c", "let a = f()!",
                     "fatalError(\"x\")", "precondition(a > 0)", "let a = unsafeBitCast(b, to: C.self)",
                     "a.unsafelyUnwrapped", "let a = \"\\(b!)\"", "var a: Int!",
                     "let a = Int(b.bigEndian(UInt64.self, at: 8) ?? 0)", "let a = Int(bytes.number64(8))",
                     "let a = UInt16(b.littleEndian(UInt32.self, at: 8) ?? 0)",
                     "let a = b.bigEndian(UInt64.self, at: 8) ?? 0 + 1", "let a = b.number64(8) * 512"):
            self.assertTrue(self.found(safety.traps, PARSER, line + "\n"), line)

    def test_no_traps(self):
        self.assert_clean(safety.traps, PARSER, """
            let a = !b && c != d && e!=f  // try! this, b!
            let text = "no! \\(a != b) try! &+"
            let mask = a & b & -c
            let size = Int(exactly: b.bigEndian(UInt64.self, at: 8) ?? 0)
            let count = Int(b.bigEndian(UInt32.self, at: 8) ?? 0) * 512
            let (sum, over) = b.number64(8).addingReportingOverflow(512)
            guard let d = try? f() else { throw g as Error }
            """)

    def test_traps_elsewhere_are_for_review(self):
        self.assert_clean(safety.traps, "Tests/BlockFormatsTests/A.swift", "let a = b!\n")

    def test_raw_pointers_stay_in_the_file_that_calls_the_library(self):
        line = "let a = b.assumingMemoryBound(to: UInt8.self)\n"
        self.assert_found("raw pointer", safety.traps, PARSER, line)
        self.assert_clean(safety.traps, PARSER, "import CZlib\n" + line)

    def test_upward_import(self):
        core = "Sources/BlockCore/A.swift"
        self.assert_found("BlockFormats", safety.imports, core, "import BlockFormats\n")
        self.assert_found("BlockProtocols", safety.imports, PARSER, "import BlockProtocols\n")
        jobs = "Sources/BlockJobs/C.swift"
        self.assert_found("PlatterCommands", safety.imports, jobs, "public import PlatterCommands\n")

    def test_downward_import(self):
        text = "import BlockCore\nimport BlockFormats\n"
        self.assert_clean(safety.imports, "Sources/BlockJobs/A.swift", text)

    def test_foundation_and_second_user_of_a_library(self):
        self.assert_found("Foundation", safety.imports, "Sources/BlockCore/A.swift", "import Foundation\n")
        self.write("Sources/BlockFormats/Zlib.swift", "import CZlib\n")
        self.assert_found("alone", safety.imports, PARSER, "import CZlib\n")


class Documented(TidyCase):
    def test_comment(self):
        self.assert_found("public A", documented.comments, PARSER, "public struct A {}\n")
        self.assert_found("public f", documented.comments, PARSER, "@inlinable\npublic static func f() {}\n")
        self.assert_found("public C", documented.comments, PARSER, "// Not one.\npublic final class C {}\n")
        inside = "/// A.\npublic struct A {\n    public var b = 1\n    public init() {}\n}\n"
        self.assert_found("public b", documented.comments, PARSER, inside)
        self.assert_found("public init", documented.comments, PARSER, inside)
        self.assert_clean(documented.comments, PARSER, "/// A.\n@frozen\npublic struct A {}\nstruct B {}\n")

    def test_requirements_are_documented_once(self):
        self.write("Sources/BlockCore/P.swift", "/// P.\npublic protocol P {\n    /// F.\n    func f()\n}\n")
        answers = "public func f() {}\npublic static func == (a: A) {}\n"
        self.assert_clean(documented.comments, PARSER, answers)

    def test_summary(self):
        two = "/// One. And two.\n"
        for text in (f"{two}public struct A {{}}\n", f"{two}@frozen\npublic struct A {{}}\n"):
            self.assert_found("summary of one sentence", documented.comments, PARSER, text)
        self.assert_clean(documented.comments, PARSER, f"{two}struct A {{}}\n")
        self.assert_clean(documented.comments, PARSER, "/// One.\n///\n/// And two.\npublic struct A {}\n")

    def test_errors(self):
        for text in ("public func f() throws(E) {}", "public init?(_ a: [Int]) throws {\n}",
                     "public func f(\n    _ a: Int\n) throws(E) -> Int {\n}",
                     "public var v: Int {\n    get throws(E) { 1 }\n}"):
            self.assert_found("no '- Throws:'", documented.errors, PARSER, "/// Does it.\n" + text + "\n")
            self.assert_clean(documented.errors, PARSER, "/// A.\n///\n/// - Throws: `io`.\n" + text + "\n")
        quiet = "public func f(_ body: () throws(E) -> Int) {\n}\npublic var f: () throws -> Int\n"
        self.assert_clean(documented.errors, PARSER, quiet)

    def format_tree(self):
        self.write("Sources/BlockFormats/StandardFormats.swift", "let all = [VdiDriver.self]\n")
        self.write("docs/formats/vdi.md", "# vdi\n")
        self.write("Tests/BlockFormatsTests/VdiTests.swift", "let t = checkFormatDriver(VdiDriver.self)\n")
        return PARSER, "final class VdiDriver {\n    static let name = \"vdi\"\n}\n"

    def test_format(self):
        self.assert_clean(documented.formats, *self.format_tree())

    def test_format_without_page(self):
        path, text = self.format_tree()
        os.unlink(os.path.join(self.root, "docs/formats/vdi.md"))
        self.assert_found("no page", documented.formats, path, text)

    def test_format_without_conformance(self):
        path, text = self.format_tree()
        self.write("Tests/BlockFormatsTests/VdiTests.swift", "func t() { VdiDriver.self }\n")
        self.assert_found("checkFormatDriver", documented.formats, path, text)

    def test_format_without_name(self):
        path, _ = self.format_tree()
        self.assert_found("states no name", documented.formats, path, "final class VdiDriver {}\n")

    def test_command_without_page(self):
        path = "Sources/PlatterCommands/ImageCommand.swift"
        text = "enum CommandList {\n    static let all = [(\"convert\", ConvertCommand.self)]\n}\n"
        self.assert_found("command convert", documented.commands, path, text)
        self.write("docs/commands/convert.md", "# convert\n")
        self.assert_clean(documented.commands, path, text)


class Roles(TidyCase):
    def setUp(self):
        super().setUp()
        for name in roles.FORMATS:
            self.write(f"Sources/BlockFormats/{name}/Tables/{name}Header.swift", "")
        self.page = "\n".join(["# Page", "", *roles.report(Tree(self.root)), "", "Text | with | bars", ""])

    def test_printed_table(self):
        self.assertIn("| Vhd | - | VhdHeader | - |", self.page)
        self.assert_clean(roles.table, roles.PAGE, self.page)

    def test_no_table(self):
        self.assert_found("--roles prints it", roles.table, roles.PAGE, "# Page\n")
        self.assert_found("--roles prints it", roles.table, roles.PAGE, self.page.replace("Survey", "Check"))

    def test_file_that_is_not_there(self):
        page = self.page.replace("| Qed | - |", "| Qed | Qed |")
        self.assert_found("Qed has no file Qed.swift (Name)", roles.table, roles.PAGE, page)
        other = self.page.replace("QedHeader", "QcowHeader")
        self.assert_found("Qed has no file QcowHeader.swift", roles.table, roles.PAGE, other)

    def test_file_that_is_left_out(self):
        self.write("Sources/BlockFormats/Vdi/VdiState.swift", "")
        self.assert_found("State of Vdi does not name VdiState", roles.table, roles.PAGE, self.page)

    def test_rows(self):
        rows = self.page.split("\n")
        short = self.page.replace("| Vdi | - |", "| Vdi |")
        self.assert_found("the row of Vdi has 10 cells", roles.table, roles.PAGE, short)
        without = "\n".join(row for row in rows if not row.startswith("| Vmdk"))
        self.assert_found("no row for Vmdk", roles.table, roles.PAGE, without)
        self.assert_found("Raw is none of", roles.table, roles.PAGE, self.page.replace("| Vmdk |", "| Raw |"))

    def test_files_of_other_names_stay(self):
        self.write("Sources/BlockFormats/Vmdk/VmdkSparseHeader.swift", "")
        cell = "VmdkHeader, VmdkSparseHeader"
        self.write(roles.PAGE, self.page.replace("| VmdkHeader |", f"| {cell} |"))
        self.assertIn(cell, "\n".join(roles.report(Tree(self.root))))
        self.assertEqual(list(roles.table(Tree(self.root))), [])


class Interface(TidyCase):
    HEAD = "| QEMU | Here | Held by |\n|---|---|---|\n"

    def setUp(self):
        super().setUp()
        self.write("Sources/BlockCore/Node.swift", "public final class Node {\n    func read() {}\n}\n")
        self.write(
            "Sources/BlockCore/Mode.swift", "enum Mode { case on, off }\n// func gone\nclass Other {}\n")
        self.write("Tests/CoreTests/NodeTests.swift", "struct NodeTests { func readsBytes() {} }\n")

    def row(self, ours, held="`NodeTests.readsBytes`"):
        return self.HEAD + f"| bdrv_read | {ours} | {held} |\n"

    def test_names_that_are_there(self):
        for ours in ("`Node.read(into:)`", "`Node`", "`Mode.off`", "`Node`, `Mode.on`", "none: for a reason"):
            self.assert_clean(interface.table, interface.PAGE, self.row(ours))

    def test_names_that_are_not_there(self):
        for name in ("Node.write", "Nodes", "Mode.read", "Other.gone"):
            self.assert_found(f"'{name}' is declared nowhere under Sources", interface.table,
                              interface.PAGE, self.row(f"`{name}`"))
        self.assert_found("'NodeTests.writes' is declared nowhere under Tests", interface.table,
                          interface.PAGE, self.row("`Node`", "`NodeTests.writes`"))

    def test_rows_without_names(self):
        self.assert_found("no name of ours", interface.table, interface.PAGE, self.row("somewhere"))
        self.assert_found("names no test", interface.table, interface.PAGE, self.row("`Node`", "later"))
        self.assert_found("a row of 2 cells", interface.table, interface.PAGE, self.HEAD + "| a | `Node` |\n")


class Seams(TidyCase):
    def test_longest_first(self):
        for name, lines in (("A", 400), ("B", 401), ("C", 500)):
            self.write(f"Sources/{name}.swift", "let a = 1\n" * lines)
        self.assertEqual(seams.report(Tree(self.root)), [
            "  500 Sources/C.swift", "  401 Sources/B.swift", "seams: 2 files have more than 400 lines"])


class Lexer(unittest.TestCase):
    def test_comments_and_strings_are_blanked(self):
        source = 'let a = "x \\(f("y!") + 1) {" // c {\nlet b = #"a\\(1) "q" { "# /* a /* b */ { */ + x\n'
        code = code_of(source)
        self.assertEqual(len(code), len(source))
        self.assertEqual(code.count("{"), 0)
        self.assertIn("(f(", code)
        self.assertTrue(code.rstrip().endswith("+ x"))

    def test_long_string(self):
        code = code_of('let a = """\n    "quoted" { \\(b {1}) \\"""\n    """\nlet c = 1\n')
        self.assertEqual(code.count("{"), 1)
        self.assertTrue(code.endswith("let c = 1\n"))


class Formatter(TidyCase):
    def test_formatter_finds_bad_layout(self):
        self.write(".swift-format", '{ "version": 1, "lineLength": 110, "indentation": { "spaces": 4 } }')
        self.write("Sources/A.swift", "struct A {\n  let a=1\n}\n")
        self.assertTrue(Tree(self.root).formatter_findings())
        self.write("Sources/A.swift", "struct A {\n    let a = 1\n}\n")
        self.assertEqual(Tree(self.root).formatter_findings(), [])


class Mending(TidyCase):
    def test_wide_comment_is_wrapped_with_its_paragraph(self):
        text = "    /// " + "word " * 25 + "\n    /// and more.\n    ///\n    /// Next.\n"
        lines = mend.wrap_comments(text).split("\n")
        self.assertEqual([len(line) <= 110 for line in lines], [True] * len(lines))
        self.assertEqual(lines[1:], ["    /// " + "word " * 5 + "and more.", "    ///", "    /// Next.", ""])

    def test_items_hang_and_stay_apart(self):
        text = "/// - a: " + "word " * 25 + "\n/// - b: next\n"
        lines = mend.wrap_comments(text).split("\n")
        self.assertTrue(lines[1].startswith("///   word"))
        self.assertEqual(lines[2], "/// - b: next")

    def test_code_is_left_alone(self):
        text = "let a = 1  // " + "word " * 30 + "\n"
        self.assertEqual(mend.wrap_comments(text), text)


if __name__ == "__main__":
    unittest.main()
