"""The line editor of `platter io`, as a person at a terminal meets it."""

import os
import shutil
import signal
import tempfile
import unittest

from program import PLATTER, platter
from terminal import Screen, Session

UP, DOWN, RIGHT, LEFT = "\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D"
HOME, END, DELETE, BACKSPACE = "\x1b[H", "\x1b[F", "\x1b[3~", "\x7f"
PROMPT = "platter> "


def control(letter):
    return chr(ord(letter) & 31)


class LineEditor(unittest.TestCase):
    def setUp(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.image = os.path.join(folder, "a.raw")
        platter("create", "-q", "-f", "raw", self.image, "1M")

    def start(self, **options):
        session = Session(PLATTER, "io", "-f", "raw", self.image, **options)
        self.addCleanup(session.close)
        if options.get("term", "xterm") == "xterm":
            session.wait(session.is_raw, "raw terminal")
        self.expect(session, "")
        return session

    def expect(self, session, line, column=None):
        """The row of the prompt shows the line, with the cursor behind it or at a column of it."""
        wanted = (PROMPT + line).rstrip(), len(PROMPT) + (len(line) if column is None else column)
        session.wait(lambda: session.screen.now() == wanted, f"row {wanted}")

    def enter(self, session, line=""):
        """Ends the line, and waits for the next prompt."""
        row = session.screen.row
        session.type(line + "\r")
        screen = session.screen
        session.wait(lambda: screen.row > row and screen.now()[0] == PROMPT.rstrip(), "prompt")
        return screen.lines()[row + 1 : screen.row]

    def test_typing_and_the_end(self):
        session = self.start()
        session.type("lengtx" + BACKSPACE + "h")
        self.expect(session, "length")
        self.assertEqual(self.enter(session), ["1 MiB"])
        session.type(control("D"))
        self.assertEqual(session.end(), 0)

    def test_moving_and_deleting(self):
        session = self.start()
        session.type("read 0 4k")
        session.type(control("A"))
        self.expect(session, "read 0 4k", 0)
        session.type(RIGHT * 3 + LEFT)
        self.expect(session, "read 0 4k", 2)
        session.type(DELETE + control("D"))
        self.expect(session, "re 0 4k", 2)
        session.type("ad" + control("E") + control("W"))
        self.expect(session, "read 0 ")
        session.type("8k" + HOME + "x" + END + "y" + BACKSPACE + control("A") + control("D"))
        self.expect(session, "read 0 8k", 0)
        session.type("\x1b[1;5C")
        self.expect(session, "read 0 8k", 4)
        session.type(control("F") + control("B") + control("K"))
        self.expect(session, "read")
        session.type(control("U"))
        self.expect(session, "")
        session.type("é日x" + LEFT + LEFT + BACKSPACE)
        session.wait(lambda: session.screen.now()[0] == PROMPT + "日x", "line without é")

    def test_unknown_keys_type_nothing(self):
        session = self.start()
        session.type("a\x1b[15~\x1b[200;3;4z\x1bOPb")
        self.expect(session, "ab")

    def test_a_lone_escape_swallows_no_key(self):
        session = self.start()
        session.type("\x1blength")
        self.expect(session, "length")

    def test_signals_leave_an_ordinary_terminal(self):
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            session = self.start()
            os.kill(session.pid, number)
            session.wait(lambda: not session.is_raw(), "ordinary terminal")
            self.assertIn(session.end(), (-number, 128 + number))

    def test_history(self):
        session = self.start()
        self.enter(session, "length")
        self.enter(session, "help length")
        self.enter(session, "help length")
        session.type("dra" + UP)
        self.expect(session, "help length")
        session.type(control("P") + UP + UP)
        self.expect(session, "length")
        session.type(DOWN + control("N") + DOWN)
        self.expect(session, "dra")
        session.type(control("C"))
        self.expect(session, "")
        session.type(UP + UP)
        self.expect(session, "length")
        self.assertEqual(self.enter(session), ["1 MiB"])

    def test_interrupt(self):
        session = self.start()
        session.type("read 0 4" + LEFT)
        self.expect(session, "read 0 4", 7)
        session.type(control("C"))
        self.expect(session, "")
        self.assertIn(PROMPT + "read 0 ^C", [line[: len(PROMPT) + 9] for line in session.screen.lines()])
        self.assertEqual(self.enter(session, "length"), ["1 MiB"])
        session.type("quit\r")
        self.assertEqual(session.end(), 0)

    def test_a_command_that_runs_is_interrupted(self):
        session = self.start()
        session.type("sleep 600000\r")
        session.wait(lambda: not session.is_raw(), "ordinary terminal")
        session.type(control("C"))
        self.assertIn(session.end(), (-signal.SIGINT, 130))

    def test_a_long_line(self):
        for columns in (80, 40, 20):
            session = self.start(columns=columns)
            words = "read " + " ".join(str(number) for number in range(100, 160))
            session.type(words)
            room = columns - 1 - len(PROMPT)
            session.wait(lambda: session.screen.now()[0].endswith("158 159"), "end of the line")
            self.assertEqual(session.screen.row, 0)
            self.assertLess(session.screen.column, columns)
            session.type(control("A"))
            self.expect(session, words[:room], 0)
            for _ in words:
                session.type(RIGHT)
                session.read(0.01)
            session.wait(lambda: session.screen.now()[0].endswith("158 159"), "end of the line")
            session.type(LEFT * 7 + control("K"))
            session.wait(lambda: session.screen.now()[0].endswith("157"), "end of the shorter line")
            self.assertEqual(len(session.screen.lines()), 1)
            session.type(control("U") + "length")
            self.expect(session, "length")
            self.assertEqual(self.enter(session), ["1 MiB"])
            session.type(control("D"))
            self.assertEqual(session.end(), 0)

    def test_a_terminal_narrower_than_the_prompt(self):
        session = self.start_narrow(6)
        session.type("length")
        session.wait(lambda: session.screen.now()[0].endswith("gth"), "end of the line")
        self.assertEqual(len(session.screen.lines()), 1)
        row = session.screen.row
        session.type("\r")
        session.wait(lambda: "1 MiB" in session.screen.lines()[row + 1 :], "answer")
        session.resize(80)
        session.type("x")
        self.expect(session, "x")

    def start_narrow(self, columns):
        session = Session(PLATTER, "io", "-f", "raw", self.image, columns=columns)
        self.addCleanup(session.close)
        session.wait(session.is_raw, "raw terminal")
        return session

    def test_completion(self):
        session = self.start()
        session.type("alloc\t")
        self.expect(session, "alloc ")
        session.type(control("U") + "aio_\t")
        self.expect(session, "aio_")
        self.assertIn("aio_flush  aio_read  aio_write", " ".join(session.screen.lines()))

    def test_pasted_lines(self):
        session = self.start()
        session.type("length\rhelp length\rlength\r")
        session.wait(lambda: session.screen.lines().count("1 MiB") == 2, "both answers")

    def test_a_terminal_that_cannot_move_its_cursor(self):
        for term in ("dumb", ""):
            session = self.start(term=term)
            session.type("length\n")
            session.wait(lambda: "1 MiB" in session.screen.lines(), "answer")
            session.type(control("D"))
            self.assertEqual(session.end(), 0)
            self.assertNotIn("\x1b", session.sent)

    def test_the_terminal_is_as_before(self):
        session = self.start()
        session.type("quit\r")
        session.wait(lambda: not session.is_raw(), "ordinary terminal")
        self.assertEqual(session.end(), 0)

    def test_the_screen_of_these_tests_wraps(self):
        screen = Screen(4)
        screen.feed("abcdef\x1b[2Dx\x1b[K")
        self.assertEqual(screen.lines(), ["abcd", "x"])


if __name__ == "__main__":
    unittest.main()
