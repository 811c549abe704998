"""Scripts/platter and Scripts/install, with the release binary that they build."""

import os
import shutil
import subprocess
import tempfile
import unittest

from program import TOP, commands, run

SCRIPTS = os.path.join(TOP, "Scripts")


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.prefix = os.path.join(cls.folder.name, "usr")
        subprocess.run(
            [os.path.join(SCRIPTS, "install"), "--prefix", cls.prefix, "--qemu-img"], check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=1200)

    def test_files(self):
        share = os.path.join(self.prefix, "share")
        for name in ("bash-completion/completions/platter", "zsh/site-functions/_platter",
                     "fish/vendor_completions.d/platter.fish", "man/man1/platter.1"):
            self.assertGreater(os.path.getsize(os.path.join(share, name)), 100, name)
        for command in commands():
            page = os.path.join(share, "man", "man1", f"platter-{command}.1")
            self.assertTrue(os.path.exists(page), command)

    def test_program_needs_no_library(self):
        program = os.path.join(self.prefix, "bin", "platter")
        self.assertIn("platter version", run(program, "--version"))
        with open(program, "rb") as file:
            # A program for the dynamic loader names it.
            self.assertNotIn(b"/ld-linux", file.read())

    @unittest.skipUnless(os.geteuid() == 0, "chroot is for root")
    def test_a_folder_without_proc_and_dev_is_enough(self):
        with tempfile.TemporaryDirectory() as root:
            shutil.copy(os.path.join(self.prefix, "bin", "platter"), root)
            with open(os.path.join(root, "a.raw"), "wb") as file:
                file.write(os.urandom(1 << 20))
            inside = ["chroot", root, "/platter"]
            run(*inside, "convert", "-f", "raw", "-O", "qcow2", "/a.raw", "/b.qcow2")
            self.assertIn("file format: qcow2", run(*inside, "info", "/b.qcow2"))
            run(*inside, "compare", "-f", "raw", "/a.raw", "/b.qcow2")

    def test_messages_begin_with_the_name_it_was_called_by(self):
        link = os.path.join(self.folder.name, "qemu-img")
        os.symlink(os.path.join(SCRIPTS, "platter"), link)
        for program, name in ((link, "qemu-img"), (os.path.join(SCRIPTS, "platter"), "platter"),
                              (os.path.join(self.prefix, "bin", "qemu-img"), "qemu-img")):
            done = subprocess.run(
                [program, "info", "missing"], cwd=self.folder.name, capture_output=True, text=True,
                check=False)
            self.assertEqual(done.returncode, 1)
            self.assertTrue(done.stderr.startswith(f"{name}: Could not open 'missing': "), done.stderr)

    def test_bad_option(self):
        done = subprocess.run(
            [os.path.join(SCRIPTS, "install"), "--nonsense"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("Usage:", done.stderr)


if __name__ == "__main__":
    unittest.main()
