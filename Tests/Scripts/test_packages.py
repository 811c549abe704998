"""Missing packages are installed once, quietly; where that is impossible, the message says what to do."""

import os
import stat
import subprocess
import tempfile
import unittest

from program import TOP

DPKG = """#!/bin/sh
# Everything is installed but what the file says.
shift 2
for name; do
    case "$(cat "$STATE/missing")" in
        *"$name"*) ;;
        *) echo "installed $name" ;;
    esac
done
"""
APT = """#!/bin/sh
echo "$@" >>"$STATE/log"
case "$*" in
    *update*) touch "$STATE/updated"; exit 0 ;;
esac
[ -e "$STATE/refuse" ] && exit 100
[ -e "$STATE/needs-update" ] && [ ! -e "$STATE/updated" ] && exit 100
exit 0
"""


class Packages(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.state = folder.name
        self.tool("dpkg-query", DPKG)
        self.tool("apt-get", APT)
        self.tool("id", "#!/bin/sh\necho ${FAKE_ID:-0}\n")

    def tool(self, name, text):
        path = os.path.join(self.state, "bin", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)

    def touch(self, name, text=""):
        with open(os.path.join(self.state, name), "w", encoding="ascii") as file:
            file.write(text)

    def need(self, missing, path=os.environ["PATH"], **more):
        self.touch("missing", missing)
        environment = dict(os.environ, STATE=self.state, PATH=f"{self.state}/bin:{path}", **more)
        return subprocess.run(
            ["/bin/bash", "-c", f". {TOP}/Scripts/lib.sh; need_packages libone-dev libtwo-dev"],
            env=environment, capture_output=True, text=True, check=False)

    def log(self):
        path = os.path.join(self.state, "log")
        if not os.path.exists(path):
            return []
        with open(path, encoding="ascii") as file:
            return [line.split("Dpkg::Use-Pty=0 ")[1].strip() for line in file]

    def test_nothing_is_done_when_all_is_there(self):
        run = self.need("")
        self.assertEqual((run.returncode, run.stdout, run.stderr, self.log()), (0, "", "", []))

    def test_only_what_is_missing_is_installed(self):
        run = self.need("libtwo-dev")
        self.assertEqual((run.returncode, run.stdout), (0, ""))
        self.assertEqual(self.log(), ["install --no-install-recommends libtwo-dev"])
        self.assertIn("installing libtwo-dev", run.stderr)

    def test_lists_are_fetched_when_the_first_try_fails(self):
        self.touch("needs-update")
        self.assertEqual(self.need("libone-dev libtwo-dev").returncode, 0)
        self.assertEqual([line.split()[0] for line in self.log()], ["install", "update", "install"])

    def test_failure_says_what_to_run(self):
        self.touch("refuse")
        run = self.need("libone-dev")
        self.assertEqual(run.returncode, 1)
        self.assertIn("apt-get install libone-dev", run.stderr)

    def test_without_root_and_sudo(self):
        # The few tools that the function needs, but no sudo.
        for name in ("env", "grep", "dirname", "readlink"):
            os.symlink(f"/usr/bin/{name}", os.path.join(self.state, "bin", name))
        for name in ("cat", "sh"):
            os.symlink(f"/bin/{name}", os.path.join(self.state, "bin", name))
        run = self.need("libone-dev", path="/nowhere", FAKE_ID="1000")
        self.assertEqual((run.returncode, self.log()), (1, []))
        self.assertIn("neither root nor sudo works", run.stderr)

    def test_with_sudo(self):
        self.tool("sudo", "#!/bin/sh\ntouch \"$STATE/sudo\"\nexec \"$@\"\n")
        self.assertEqual(self.need("libone-dev", FAKE_ID="1000").returncode, 0)
        self.assertTrue(os.path.exists(os.path.join(self.state, "sudo")))
        self.assertEqual(self.log(), ["install --no-install-recommends libone-dev"])


if __name__ == "__main__":
    unittest.main()
