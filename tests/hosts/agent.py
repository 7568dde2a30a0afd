#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs inside a host and carries out commands that come from outside, one at a time.

agent.py FOLDER     Commands start in FOLDER.

Requests and answers are lines of JSON on the virtio serial port.

Requests:  {"argv": [...], "limit": seconds, "terminal": [rows, columns] or null, "env": {...}};
           while it runs {"input": base64} and {"input": null} (the end); {"poweroff": true}
Answers:   {"ready": kernel release} once; {"out": base64}, {"err": base64};
           {"exit": code, "timed_out": bool, "seconds": s}
A command that outlives its limit is ended with everything in its session.
"""
import base64
import collections
import ctypes
import fcntl
import glob
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

KVM_CREATE_VM = 0xAE01
KVM_CREATE_VCPU = 0xAE41
KVM_CREATE_IRQCHIP = 0xAE60
KVM_SET_MSRS = 0x4008AE89
KVM_ENABLE_CAP = 0x4068AEA3
KVM_CAP_SPLIT_IRQCHIP = 121
MSR_APIC_BASE = 0x1B
APIC_BASE = 0xFEE00900
APIC_ENABLED = 1 << 11
PIECE = 65536  # bytes that are read at once
INPUT_KEPT = 1 << 20  # bytes: no more input is taken from outside while the command has so much to read
OUTPUT_AFTER_END = 2  # seconds: a command has ended, and what it left behind keeps its output open


def keep_machines():
    """A VM of each kind that flips a static key of KVM, open for as long as the agent runs.

    The kernel patches its own text when the first of a kind appears and the last one goes, and a
    vCPU of TCG has been seen to loop in such text.
    """
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    kept = []
    for kind in ("none", "full", "split", "disabled"):
        machine = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
        if kind == "split":
            fcntl.ioctl(machine, KVM_ENABLE_CAP,
                        struct.pack("<II4Q", KVM_CAP_SPLIT_IRQCHIP, 0, 24, 0, 0, 0).ljust(104, b"\0"))
        elif kind != "none":
            fcntl.ioctl(machine, KVM_CREATE_IRQCHIP, 0)
        cpu = fcntl.ioctl(machine, KVM_CREATE_VCPU, 0)
        if kind == "disabled":
            base = bytearray(struct.pack("<IIIIQ", 1, 0, MSR_APIC_BASE, 0, APIC_BASE & ~APIC_ENABLED))
            if fcntl.ioctl(cpu, KVM_SET_MSRS, base) != 1:  # the count of those taken
                sys.exit("agent: KVM does not take the APIC base")
        kept += [machine, cpu]
    return kept


class Command:
    """A command that runs in a session of its own, on pipes or on a terminal."""

    def __init__(self, request, folder):
        """Starts it. Fails with OSError."""
        self.began = time.monotonic()
        self.limit = self.began + request["limit"]
        self.timed_out = False
        self.ended = None  # when it was seen to have ended
        self.unwritten = bytearray()  # of its input
        self.input_ends = False
        inner = self.open_terminal(*request["terminal"]) if request["terminal"] else self.open_pipes()
        os.set_blocking(self.input, False)  # a command that does not read holds up its own input alone
        try:
            self.process = subprocess.Popen(request["argv"], cwd=folder, stdin=inner[0], stdout=inner[1],
                                            stderr=inner[2], start_new_session=True,
                                            env={**os.environ, **request["env"]},
                                            preexec_fn=take_terminal if request["terminal"] else None)
        except OSError:
            self.close_ends()
            raise
        finally:
            for fd in set(inner):
                os.close(fd)
        self.pidfd = os.pidfd_open(self.process.pid)

    def open_terminal(self, rows, columns):
        """A terminal, whose inner side is returned for stdin, stdout and stderr."""
        self.input, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.outputs = {os.dup(self.input): "out"}
        return [inner] * 3

    def open_pipes(self):
        """Three pipes, whose inner ends are returned."""
        inner_in, self.input = os.pipe()
        outer_out, inner_out = os.pipe()
        outer_err, inner_err = os.pipe()
        self.outputs = {outer_out: "out", outer_err: "err"}
        return [inner_in, inner_out, inner_err]

    def takes_input(self):
        return len(self.unwritten) < INPUT_KEPT

    def add_input(self, data):
        """Bytes for its input, or None, which ends it."""
        if data is None:
            self.input_ends = True
        elif self.input is not None:
            self.unwritten += data
        self.write_input()

    def write_input(self):
        """As much as it takes."""
        try:
            while self.unwritten:
                del self.unwritten[:os.write(self.input, self.unwritten)]
        except BlockingIOError:
            return
        except OSError:  # it no longer reads
            self.unwritten.clear()
            self.input_ends = True
        if self.input_ends and self.input is not None:
            os.close(self.input)
            self.input = None

    def watched(self):
        """What it waits for, as poll takes it."""
        events = dict.fromkeys(self.outputs, select.POLLIN)
        if self.unwritten:
            events[self.input] = select.POLLOUT
        if self.ended is None:
            events[self.pidfd] = select.POLLIN
        return events

    def time_left(self):
        """Seconds until its limit, or, once it has ended, until its output is no longer waited for.
        None: it is being ended."""
        if self.ended is not None:
            return max(0, self.ended + OUTPUT_AFTER_END - time.monotonic())
        return None if self.timed_out else max(0, self.limit - time.monotonic())

    def is_over(self):
        """Whether it has ended, and its output as well; what it left behind may keep that open, and
        is not waited for."""
        return self.ended is not None and (not self.outputs or self.time_left() == 0)

    def keep_limit(self):
        """Ends it, with everything in its session, if its time is up."""
        if self.ended is None and self.time_left() == 0:
            self.timed_out = True
            end_session(self.process.pid)

    def take_output(self, fd):
        """(stream, bytes) of an output that is readable; no bytes at its end."""
        stream = self.outputs[fd]
        try:
            chunk = os.read(fd, PIECE)
        except OSError:  # a terminal whose other side is closed
            chunk = b""
        if not chunk:
            os.close(fd)
            del self.outputs[fd]
        return stream, chunk

    def finish(self):
        """Closes what is open. Returns the exit code."""
        self.close_ends()
        os.close(self.pidfd)
        code = self.process.wait()
        return 128 - code if code < 0 else code

    def close_ends(self):
        for fd in (*self.outputs, self.input):
            if fd is not None:
                os.close(fd)


class Agent:
    def __init__(self, port, folder):
        self.port = port
        self.folder = folder
        self.pending = b""
        self.requests = collections.deque()

    def say(self, **answer):
        data = json.dumps(answer).encode() + b"\n"
        while data:
            data = data[os.write(self.port, data):]

    def say_output(self, stream, data):
        self.say(**{stream: base64.b64encode(data).decode()})

    def receive(self):
        """Reads requests; blocks until there is something to read."""
        chunk = os.read(self.port, PIECE)
        if not chunk:  # nothing is connected yet
            time.sleep(0.05)
        *lines, self.pending = (self.pending + chunk).split(b"\n")
        self.requests.extend(json.loads(line) for line in lines)

    def serve(self):
        while True:
            while not self.requests:
                self.receive()
            request = self.requests.popleft()
            if request.get("poweroff"):
                os.sync()
                return
            if "argv" in request:
                self.carry_out(request)

    def carry_out(self, request):
        try:
            command = Command(request, self.folder)
        except OSError as error:
            self.say_output("err", f"{request['argv'][0]}: {error.strerror}\n".encode())
            self.say(exit=127, timed_out=False, seconds=0)
            return
        while not command.is_over():
            self.pass_input(command)
            watched = command.watched()
            if command.takes_input():
                watched[self.port] = select.POLLIN
            ready = wait(watched, command.time_left())
            if self.port in ready:
                self.receive()
            if command.input in ready:
                command.write_input()
            for fd in [fd for fd in command.outputs if fd in ready]:
                self.say_output(*command.take_output(fd))
            if command.pidfd in ready:
                command.ended = time.monotonic()
            command.keep_limit()
        self.say(exit=command.finish(), timed_out=command.timed_out, seconds=round(time.monotonic() - command.began, 3))
        reap()

    def pass_input(self, command):
        while self.requests and "input" in self.requests[0]:
            data = self.requests.popleft()["input"]
            command.add_input(data if data is None else base64.b64decode(data))


def wait(events, seconds):
    """Waits until one of the descriptors is ready. Returns those that are."""
    poll = select.poll()
    for fd, mask in events.items():
        poll.register(fd, mask)
    return {fd for fd, _ in poll.poll(None if seconds is None else seconds * 1000 + 1)}


def take_terminal():
    """The terminal on stdin becomes the session's own."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def end_session(session):
    """SIGKILL to every process of a session."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as stat:
                if int(stat.read().rpartition(")")[2].split()[3]) == session:
                    os.kill(int(entry), signal.SIGKILL)
        except (OSError, ValueError):
            pass  # it has ended meanwhile


def reap():
    """Orphans that have ended: they come here."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        pass


def main():
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans of a test come here
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    machines = keep_machines()
    (port,) = glob.glob("/dev/vport*p1")
    agent = Agent(os.open(port, os.O_RDWR | os.O_CLOEXEC), sys.argv[1])
    agent.say(ready=os.uname().release, machines=len(machines) // 2)
    agent.serve()


if __name__ == "__main__":
    main()
