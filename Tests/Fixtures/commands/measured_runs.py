"""Runs programs one after the other and tells of each what it took: a JSON object a line in, one a line out.

A process of its own, because a child's peak memory begins with that of the process that made it.
"""

import json
import os
import resource
import signal
import sys
import time

KEPT = 1 << 20


def spawn(job, output, error):
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
        (os.POSIX_SPAWN_DUP2, error.fileno(), 2),
    ]
    arguments = job["arguments"]
    return os.posix_spawn(arguments[0], arguments, os.environ, file_actions=actions, setsigdef=[signal.SIGPIPE])


def run(job):
    os.chdir(job["folder"])
    with open(".out", "w+b") as output, open(".err", "w+b") as error:
        began = time.monotonic()
        child = spawn(job, output, error)
        was_ended = False

        def end(*_):
            nonlocal was_ended
            was_ended = True
            os.kill(child, signal.SIGKILL)

        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
        _, status, usage = os.wait4(child, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        output.seek(0)
        error.seek(0)
        return {
            "status": os.waitstatus_to_exitcode(status), "isLate": was_ended, "peakKiB": usage.ru_maxrss,
            "seconds": time.monotonic() - began, "output": output.read(KEPT).decode(errors="replace"),
            "error": error.read(KEPT).decode(errors="replace"),
        }


os.environ["LC_ALL"] = "C.UTF-8"
# Who started this may have blocked signals, and a child would inherit that.
signal.pthread_sigmask(signal.SIG_SETMASK, [])
# No crash of a hostile child fills the disk.
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for line in sys.stdin:
    print(json.dumps(run(json.loads(line))), flush=True)
