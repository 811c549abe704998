"""A program on a pseudo-terminal, and what a person would see on its screen."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

PATIENCE = 60


class Screen:
    """The rows of a small terminal: printing, wrapping, and the few sequences that line editors use."""

    def __init__(self, columns):
        self.columns = columns
        self.rows = [[]]
        self.row = self.column = 0

    def feed(self, text):
        for match in re.finditer(r"\x1b\[([0-9;]*)([A-Za-z])|(.)", text, re.DOTALL):
            parameters, final, character = match.groups()
            if final:
                self.control(final, parameters)
            else:
                self.put(character)

    def control(self, final, parameters):
        count = int(parameters or 1)
        if final == "C":
            self.column = min(self.column + count, self.columns - 1)
        elif final == "D":
            self.column = max(self.column - count, 0)
        elif final == "K" and not parameters:
            del self.rows[self.row][self.column :]
        elif final == "H" and not parameters:
            self.row = self.column = 0
        elif final == "J" and parameters == "2":
            self.rows = [[]]
        else:
            raise AssertionError(f"the screen does not know ESC [ {parameters} {final}")

    def put(self, character):
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.line_feed()
        elif character == "\b":
            self.column = max(self.column - 1, 0)
        elif character == "\a":
            pass
        elif character >= " ":
            if self.column == self.columns:
                self.column = 0
                self.line_feed()
            row = self.rows[self.row]
            row.extend(" " * (self.column + 1 - len(row)))
            row[self.column] = character
            self.column += 1
        else:
            raise AssertionError(f"the screen does not know {character!r}")

    def line_feed(self):
        self.row += 1
        while len(self.rows) <= self.row:
            self.rows.append([])

    def lines(self):
        return ["".join(row).rstrip() for row in self.rows]

    def now(self):
        """The row with the cursor, and the cursor's column."""
        return "".join(self.rows[self.row]).rstrip(), self.column


class Session:
    """A program that believes that a person sits before it."""

    def __init__(self, *command, columns=80, term="xterm"):
        self.screen = Screen(columns)
        self.sent = ""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            # Whatever ran the tests may ignore them, and the program leaves ignored signals so.
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            os.execve(command[0], command, {**os.environ, "TERM": term, "LC_ALL": "C.UTF-8"})
        self.resize(columns)

    def resize(self, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.screen.columns = columns

    def type(self, text):
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def read(self, seconds):
        """Takes what the program printed, waiting at most so long; False where there was nothing."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        text = data.decode(errors="replace")
        self.sent += text
        self.screen.feed(text)
        return bool(data)

    def wait(self, condition, what):
        """Reads until the condition holds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"no {what}; the screen: {self.screen.lines()} {self.screen.now()}")
            self.read(0.1)

    def is_raw(self):
        """Whether the program takes keys rather than lines."""
        return not termios.tcgetattr(self.master)[3] & termios.ICANON

    def end(self):
        """Waits for the end of the program; its exit status, negative for a signal."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                while self.read(0):
                    pass
                self.pid = None
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"the program does not end; the screen: {self.screen.lines()}")

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)
