#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs inside a host and carries out commands that come from outside, one at a time.

agent.py FOLDER     Commands start in FOLDER. Requests and answers are lines of JSON on the virtio serial port.

Requests:  {"argv": [...], "limit": seconds, "tty": bool, "env": {...}}; while it runs {"input": base64} and {"input": null} (the end);
           {"poweroff": true}
Answers:   {"ready": kernel release} once; {"out": base64}, {"err": base64}; {"exit": code, "timed_out": bool, "seconds": s}
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
import selectors
import signal
import struct
import subprocess
import sys
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


def keep_machines():
    """A VM of each kind that flips a static key of KVM, open for as long as the agent runs.

    The kernel patches its own text when the first of a kind appears and the last one goes, and a vCPU of TCG has been seen to loop in such text.
    """
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    kept = []
    for kind in ("none", "full", "split", "disabled"):
        machine = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
        if kind == "split":
            fcntl.ioctl(machine, KVM_ENABLE_CAP, struct.pack("<II4Q", KVM_CAP_SPLIT_IRQCHIP, 0, 24, 0, 0, 0).ljust(104, b"\0"))
        elif kind != "none":
            fcntl.ioctl(machine, KVM_CREATE_IRQCHIP, 0)
        cpu = fcntl.ioctl(machine, KVM_CREATE_VCPU, 0)
        if kind == "disabled":
            base = bytearray(struct.pack("<IIIIQ", 1, 0, MSR_APIC_BASE, 0, APIC_BASE & ~APIC_ENABLED))
            if fcntl.ioctl(cpu, KVM_SET_MSRS, base) != 1:  # the count of those taken
                sys.exit("agent: KVM does not take the APIC base")
        kept += [machine, cpu]
    return kept


class Agent:
    def __init__(self, port, folder):
        self.port = port
        self.folder = folder
        self.pending = b""
        self.requests = collections.deque()
        self.unwritten = b""  # of the command's input
        self.input_ends = False

    def say(self, **answer):
        data = json.dumps(answer).encode() + b"\n"
        while data:
            data = data[os.write(self.port, data):]

    def receive(self):
        """Reads requests; blocks until there is something to read."""
        chunk = os.read(self.port, 65536)
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
        began = time.monotonic()
        outer_in = outer_out = outer_err = None
        self.unwritten = b""
        self.input_ends = False
        if request.get("tty"):
            outer_in, inner = pty.openpty()
            rows, columns = request.get("size", (25, 80))
            fcntl.ioctl(inner, 0x5414, struct.pack("HHHH", rows, columns, 0, 0))  # TIOCSWINSZ
            ends = [(inner, inner, inner)]
            outer_out = os.dup(outer_in)
        else:
            inner_in, outer_in = os.pipe()
            outer_out, inner_out = os.pipe()
            outer_err, inner_err = os.pipe()
            ends = [(inner_in, inner_out, inner_err)]
        stdin, stdout, stderr = ends[0]
        try:
            process = subprocess.Popen(request["argv"], cwd=self.folder, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True,
                                       env={**os.environ, **request.get("env", {})},
                                       preexec_fn=(lambda: fcntl.ioctl(0, 0x540E, 0)) if request.get("tty") else None)  # TIOCSCTTY
        except OSError as error:
            for fd in (outer_in, outer_out, outer_err):
                if fd is not None:
                    os.close(fd)
            self.say(err=base64.b64encode(f"{request['argv'][0]}: {error.strerror}\n".encode()).decode())
            self.say(exit=127, timed_out=False, seconds=0)
            return
        finally:
            for fd in {stdin, stdout, stderr}:
                os.close(fd)
        outputs = {outer_out: "out"} | ({outer_err: "err"} if outer_err is not None else {})
        os.set_blocking(outer_in, False)  # a command that does not read holds up its own input alone
        watched = selectors.DefaultSelector()
        for fd in (*outputs, self.port):
            watched.register(fd, selectors.EVENT_READ)
        limit = began + request["limit"]
        timed_out = False
        ended = None  # when the command was seen to have ended; what it left behind may keep its output open
        while outputs:
            outer_in = self.pass_input(outer_in)
            for key, _ in watched.select(0.2):
                if key.fd == self.port:
                    self.receive()
                    continue
                try:
                    chunk = os.read(key.fd, 65536)
                except OSError:  # a terminal whose other side is closed
                    chunk = b""
                if chunk:
                    self.say(**{outputs[key.fd]: base64.b64encode(chunk).decode()})
                else:
                    watched.unregister(key.fd)
                    os.close(key.fd)
                    del outputs[key.fd]
            now = time.monotonic()
            if now > limit and not timed_out:
                timed_out = True
                end_session(process.pid)
            if process.poll() is not None:
                ended = ended or now
                if now > ended + 2:
                    break
        for fd in outputs:
            os.close(fd)
        if outer_in is not None:
            os.close(outer_in)
        try:
            code = process.wait(max(0.1, limit + 1 - time.monotonic()))
        except subprocess.TimeoutExpired:
            timed_out = True
            end_session(process.pid)
            code = process.wait()
        reap()
        self.say(exit=128 - code if code < 0 else code, timed_out=timed_out, seconds=round(time.monotonic() - began, 3))

    def pass_input(self, to):
        """Hands on what came for the command's input, as far as it takes it. Returns the input, or None once it has ended."""
        while self.requests and "input" in self.requests[0]:
            data = self.requests.popleft()["input"]
            if data is None:
                self.input_ends = True
            else:
                self.unwritten += base64.b64decode(data)
        if to is None:
            return None
        try:
            while self.unwritten:
                self.unwritten = self.unwritten[os.write(to, self.unwritten):]
        except BlockingIOError:
            return to
        except OSError:
            self.unwritten = b""  # the command no longer reads
        if self.input_ends:
            os.close(to)
            return None
        return to


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
