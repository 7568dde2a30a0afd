#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of agent.py, and of how kvm_host.Host talks with it: the agent runs here, on a socket in
place of a host's port."""
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

import kvm_host

FOLDER = os.path.dirname(os.path.abspath(__file__))
AGENT = "import sys, agent; it = agent.Agent(int(sys.argv[1]), '/'); it.say(ready='here'); it.serve()"
LIMIT = 60  # seconds, for commands that have time
LARGE = 3 << 20  # bytes: more than all pipes and sockets on the way hold


def runs(process):
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Local(kvm_host.Host):
    """An agent without a host."""

    def _start(self, kind, number, network):
        self.console = tempfile.TemporaryFile()
        self.agent, inner = socket.socketpair()
        self.process = subprocess.Popen([sys.executable, "-B", "-c", AGENT, str(inner.fileno())],
                                        cwd=FOLDER, pass_fds=[inner.fileno()])
        inner.close()


class AgentTest(unittest.TestCase):
    def setUp(self):
        self.host = Local().ready()
        self.addCleanup(self.host.console.close)
        self.addCleanup(self.host.end)

    def run_here(self, *argv, limit=LIMIT, **more):
        return self.host.run(list(argv), limit, **more)

    def large_file(self):
        """(descriptor, SHA-256) of random bytes."""
        file = tempfile.TemporaryFile()
        self.addCleanup(file.close)
        data = os.urandom(LARGE)
        file.write(data)
        file.seek(0)
        return file.fileno(), hashlib.sha256(data).hexdigest()

    def test_the_exit_code_is_the_commands(self):
        for script, code in (("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 128 + 9)):
            self.assertEqual(self.run_here("sh", "-c", script).code, code, script)

    def test_a_command_that_is_not_there_is_named(self):
        result = self.run_here("/no/such/command")
        self.assertEqual((result.code, result.text), (127, "/no/such/command: No such file or directory\n"))

    def test_output_and_errors_come_apart(self):
        result = self.run_here("sh", "-c", "echo said; echo wrong >&2")
        self.assertEqual((bytes(result.out), bytes(result.err)), (b"said\n", b"wrong\n"))

    def test_much_input_and_output_pass_side_by_side(self):
        stdin, digest = self.large_file()
        result = self.run_here("cat", stdin=stdin)
        self.assertEqual(hashlib.sha256(result.out).hexdigest(), digest)

    def test_a_command_that_reads_late_gets_all_its_input(self):
        stdin, digest = self.large_file()
        result = self.run_here("sh", "-c", "sleep 0.5; sha256sum", stdin=stdin)
        self.assertEqual(result.text, f"{digest}  -\n")

    def test_input_that_is_not_read_holds_nothing_up(self):
        for script in ("exit 3", "exec <&-; sleep 0.5; exit 3", "head -c 10 >/dev/null; exit 3"):
            stdin, _ = self.large_file()
            self.assertEqual(self.run_here("sh", "-c", script, stdin=stdin).code, 3, script)
            self.assertEqual(self.run_here("cat").out, b"", "the next command gets it")

    def test_a_command_ends_at_its_limit_with_its_session(self):
        stdin, _ = self.large_file()  # unread
        result = self.run_here("sh", "-c", "sleep 1000 & echo $!; sleep 1000", limit=0.5, stdin=stdin)
        self.assertTrue(result.timed_out)
        self.assertEqual(result.code, 128 + 9)
        while runs(int(result.out)):
            time.sleep(0.01)

    def test_the_limit_holds_for_a_command_that_closed_its_output(self):
        self.assertTrue(self.run_here("sh", "-c", "exec >&- 2>&-; sleep 1000", limit=0.5).timed_out)

    def test_what_a_command_leaves_behind_is_not_waited_for(self):
        result = self.run_here("sh", "-c", "sleep 1000 & echo $!; exit 5")
        self.assertEqual((result.code, result.timed_out), (5, False))
        os.kill(int(result.out), 9)

    def test_variables_of_tests_are_passed_on(self):
        outer = {"SNAPVM_TEST_MOMENTS": "300", "SNAPVM_TEST_KERNEL_ARGUMENTS": "outer", "OTHER": "outer"}
        with unittest.mock.patch.dict(os.environ, outer):
            said = self.run_here("sh", "-c", "echo $SNAPVM_TEST_MOMENTS,$SNAPVM_TEST_KERNEL_ARGUMENTS,$OTHER").text
        self.assertEqual(said, "300,,\n")

    def test_a_terminal_has_its_size_and_keys(self):
        result = self.run_here("sh", "-c", "stty size; exit 4", terminal=(33, 101))
        self.assertEqual((result.code, result.text), (4, "33 101\r\n"))
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        os.write(writer, b"\x03")  # the interrupt key
        self.assertEqual(self.run_here("sleep", "1000", terminal=(33, 101), stdin=reader).code, 128 + 2)


if __name__ == "__main__":
    unittest.main()
