#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests that two ./dev in one checkout wait for each other. The checkout is a copy of `dev` whose
lint is a script of the test: it says that it runs, and ends when told."""
import os
import shutil
import signal
import subprocess
import tempfile
import unittest

DEV = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../dev")
LIMIT = 60  # seconds, for what happens at once
# Reads the line that lets it end from stdin, which each ./dev has to itself.
LINT = "#!/bin/sh\necho runs\nread -r line\necho \"$line\"\n"
NESTED = "#!/bin/sh\n[ \"$1\" = --quick ] || exec ./dev lint --quick\necho nested\n"


def late(*_):
    raise TimeoutError(f"nothing for {LIMIT} s")


class Lock(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        shutil.copy(DEV, self.folder)
        os.mkdir(os.path.join(self.folder, "tests"))
        self.script("tests/lint.sh", LINT)
        # No test installs a package.
        os.mkdir(os.path.join(self.folder, "bin"))
        self.script("bin/dpkg-query", "#!/bin/sh\necho 'ii '\n")
        self.script("bin/nproc", "#!/bin/sh\necho 1\n")

    def script(self, path, text):
        path = os.path.join(self.folder, path)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(path, 0o755)

    def dev(self, *arguments):
        """Starts ./dev in a process group of its own, which is gone when the test ends."""
        environment = dict(os.environ, PATH=f"{self.folder}/bin:{os.environ['PATH']}")
        process = subprocess.Popen([os.path.join(self.folder, "dev"), *arguments], env=environment, text=True,
                                   start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        self.addCleanup(process.communicate)
        self.addCleanup(self.kill, process)
        return process

    def kill(self, process):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def line(self, stream):
        """Returns the next line. Fails after LIMIT."""
        signal.alarm(LIMIT)
        line = stream.readline().rstrip("\n")
        signal.alarm(0)
        return line

    def ends(self, process, line):
        """Lets it end, and returns what else it printed on stdout."""
        out, err = process.communicate(line + "\n", timeout=LIMIT)
        self.assertEqual(process.returncode, 0, err)
        return out

    def test_the_second_waits_and_says_for_whom(self):
        first = self.dev("lint")
        self.assertEqual(self.line(first.stdout), "runs")
        second = self.dev("lint")
        self.assertEqual(self.line(second.stderr), f"waiting for another ./dev here (pid {first.pid})")
        self.assertIsNone(first.poll())
        self.assertEqual(self.ends(first, "first"), "first\n")
        self.assertEqual(self.line(second.stdout), "runs")
        self.assertEqual(self.ends(second, "second"), "second\n")

    def test_a_killed_one_is_not_waited_for(self):
        first = self.dev("lint")
        self.assertEqual(self.line(first.stdout), "runs")
        second = self.dev("lint")
        self.line(second.stderr)
        self.kill(first)
        self.assertEqual(self.line(second.stdout), "runs")
        self.assertEqual(self.ends(second, "second"), "second\n")

    def test_one_that_another_starts_does_not_wait(self):
        self.script("tests/lint.sh", NESTED)
        first = self.dev("lint")
        self.assertEqual(self.ends(first, ""), "nested\n")

    def test_usage_does_not_wait(self):
        first = self.dev("lint")
        self.assertEqual(self.line(first.stdout), "runs")
        for arguments, code in ((), 2), (("nosuch",), 2), (("lint", "nosuch"), 1), (("bench", "--host", "nosuch"), 1):
            process = self.dev(*arguments)
            _, err = process.communicate(timeout=LIMIT)
            self.assertEqual(process.returncode, code)
            self.assertNotIn("waiting", err)
        self.ends(first, "")


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, late)
    unittest.main(verbosity=2)
