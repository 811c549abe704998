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
PIP = """#!/bin/bash
# python3 -m pip, which fails as often as the file says.
[[ "$*" == *--version* ]] && exit 0
left=$(cat "$STATE/fails")
echo $((left - 1)) >"$STATE/fails"
[ "$left" -gt 0 ] && { echo "no network" >&2; exit 1; }
while [ "$1" != --target ]; do shift; done
mkdir -p "$2"
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

    def need_peers(self, fails):
        """A python3 whose pip fails so many times, and a folder of its own for what it installs."""
        self.touch("fails", str(fails))
        self.tool("python3", PIP)
        self.touch("list", "one==1\n")
        script = f". {TOP}/Scripts/lib.sh; root=$STATE; peers=$STATE/.build/peers; mkdir $STATE/Scripts; " \
            "cp $STATE/list $STATE/Scripts/peers.txt; need_python_peers && need_python_peers"
        environment = dict(os.environ, STATE=self.state, PATH=f"{self.state}/bin:/usr/bin:/bin",
                           PEERS_PAUSE="0")
        return subprocess.run(
            ["/bin/bash", "-c", script], env=environment, capture_output=True, text=True, check=False)

    def installed(self):
        return os.path.exists(os.path.join(self.state, ".build", "peers", "installed.txt"))

    def test_python_peers_are_installed_once(self):
        run = self.need_peers(fails=2)
        self.assertEqual((run.returncode, run.stdout), (0, ""), run.stderr)
        self.assertEqual(run.stderr.count("installing Python packages"), 1)
        self.assertTrue(self.installed())

    def test_python_peers_that_cannot_be_had(self):
        run = self.need_peers(fails=3)
        self.assertEqual(run.returncode, 1)
        self.assertIn("no network", run.stderr)
        self.assertIn("cannot install the Python packages", run.stderr)
        self.assertFalse(self.installed())


if __name__ == "__main__":
    unittest.main()
