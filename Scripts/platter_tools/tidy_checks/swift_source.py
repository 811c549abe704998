"""Just enough of Swift's lexical structure for the checks: comments, string literals, function bodies."""

import re


TOKEN = re.compile(r'//[^\n]*|/\*|(#*)("""|")|[()]')


def blank(text):
    return re.sub(r"[^\n]", " ", text)


class Lexer:
    """Replaces comments and the text of string literals by spaces; lines and columns stay where they are."""

    def __init__(self, text):
        self.text = text
        self.out = []
        self.at = 0

    def code(self):
        self.pass_code(inside=False)
        return "".join(self.out)

    def keep(self, end):
        self.out.append(self.text[self.at:end])
        self.at = end

    def hide(self, end):
        self.out.append(blank(self.text[self.at:end]))
        self.at = end

    def pass_code(self, inside):
        """Keeps code up to the end or, `inside` an interpolation, up to the parenthesis that closes it."""
        depth = 0
        while token := TOKEN.search(self.text, self.at):
            self.keep(token.start())
            if token.group() == "/*":
                self.hide(self.comment_end())
            elif token.group().startswith("//"):
                self.hide(token.end())
            elif token[2]:
                self.keep(token.end())
                self.pass_string(token[1], token[2])
            else:
                depth += 1 if token.group() == "(" else -1
                self.keep(token.end())
                if inside and depth < 0:
                    return
        self.keep(len(self.text))

    def comment_end(self):
        depth, at = 1, self.at + 2
        while depth and (mark := re.compile(r"/\*|\*/").search(self.text, at)):
            depth += 1 if mark.group() == "/*" else -1
            at = mark.end()
        return len(self.text) if depth else at

    def pass_string(self, hashes, quote):
        """Hides a string literal whose opening quote is behind us; keeps the code of its interpolations."""
        mark = re.compile(r"(\\%s)(\(?)|%s" % (hashes, quote + hashes))
        while found := mark.search(self.text, self.at):
            self.hide(found.start())
            if not found[1]:
                return self.keep(found.end())
            if found[2]:
                self.hide(found.end() - 1)
                self.keep(found.end())
                self.pass_code(inside=True)
            else:
                self.hide(found.end() + 1)
        self.hide(len(self.text))


def code_of(text):
    """The source without comments and string contents, at the same positions."""
    return Lexer(text).code()


def matching(code, at):
    """The position just past the bracket that closes the one at `at`."""
    pairs, depth = {"(": ")", "{": "}", "[": "]"}, 0
    opening, closing = code[at], pairs[code[at]]
    for index in range(at, len(code)):
        if code[index] == opening:
            depth += 1
        elif code[index] == closing:
            depth -= 1
            if depth == 0:
                return index + 1
    return len(code)


DECLARATION = re.compile(
    r"(?<![\w.`])(?:func\s+(?P<name>`?\w+`?|[^\s\w(]+)|(?P<init>init)[?!]?|(?P<subscript>subscript))\s*[<(]"
    r"|(?<![\w.`])(?P<deinit>deinit)\s*\{"
    r"|(?<![\w.`])(?:var|let)\s+(?P<property>\w+)\s*(?::[^={}\n]*)?\{")
NEXT = re.compile(r"[{}]|\n\s*(?:@\w+[^\n]*|"
                  r"public|private|internal|static|func|init|var|let|case|subscript)\b")


def functions(code):
    """Functions, initialisers, subscripts, computed properties with a body: name, first line, lines."""
    for match in DECLARATION.finditer(code):
        name = match["name"] or match["init"] or match["subscript"] or match["deinit"] or match["property"]
        at = match.end() - 1
        if code[at] != "{":
            if code[at] == "<":
                at = code.find("(", at)
            if at < 0:
                continue
            body = NEXT.search(code, matching(code, at))
            if not body or body.group() != "{":
                continue
            at = body.start()
        first = code.count("\n", 0, match.start()) + 1
        yield name, first, code[match.start():matching(code, at)].split("\n")
