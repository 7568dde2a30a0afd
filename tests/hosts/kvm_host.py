# SPDX-License-Identifier: Apache-2.0
"""A KVM host in QEMU: the outer machine's root file system, read-only, under a disk of its own, on
a processor with AMD-V and a kernel of Debian's.

What a command writes there is gone when the host ends. One thread at a time uses a host.
"""
import base64
import ctypes
import json
import mmap
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
FOLDER = os.path.join(ROOT, "build", "hosts", "amd-v")
BOOT_LIMIT = 180  # seconds; 6 to 10 are usual
GRACE = 60  # seconds that a host has beyond a command's limit, before it counts as hung
DISK_SIZE = 24 << 30  # sparse


class HostError(Exception):
    """The host does not start, hangs or has ended."""


@dataclass(frozen=True)
class Kind:
    """What differs from host to host."""
    kernel: str = "6.1"  # or backports
    paging: str = "nested"  # or shadow
    cpus: int = 1
    memory: str = "6G"

    def __str__(self):
        return f"{self.kernel}, {self.paging} paging, {self.cpus} CPU{'s' if self.cpus > 1 else ''}"


@dataclass
class Result:
    code: int = 0
    timed_out: bool = False
    seconds: float = 0
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)

    @property
    def text(self):
        return (self.out + self.err).decode(errors="replace")


def tsc_khz():
    """The rate of this machine's TSC, which is the host's as well."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("0f31 48c1e220 4809d0 c3"))  # rdtsc; shl $32, %rdx; or %rdx, %rax; ret
    read_tsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    begin, tsc = time.monotonic_ns(), read_tsc()
    time.sleep(0.2)
    return (read_tsc() - tsc) * 1_000_000 // (time.monotonic_ns() - begin)


def image(kernel):
    """Makes what a host with this kernel boots. Returns why it cannot be had here, or None."""
    made = subprocess.run([os.path.join(ROOT, "tests/hosts/amd_v/image.sh"), kernel],
                          stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if made.returncode == 3:
        return made.stderr.strip()
    if made.returncode != 0:
        raise HostError(made.stderr.strip())
    if made.stderr:  # an older image is used
        print(made.stderr.strip(), file=sys.stderr)
    return None


class Host:
    """Starts on construction; `ready` waits for it. Ends with the process that made it."""

    def __init__(self, kind=Kind(), number=1, network=None):
        """network: one end of a socket pair, whose other end is another host's; the address is
        10.77.0.NUMBER. Fails with HostError."""
        self.taken = b""  # of the agent's answers
        self.unsent = b""  # of a command's input
        self.stdin = None
        if any(letter.isspace() for letter in ROOT):
            raise HostError(f"the checkout's path has a space, which a kernel's command line cannot hold: {ROOT}")
        try:
            self._start(kind, number, network)
        except (OSError, subprocess.CalledProcessError) as error:
            raise HostError(f"QEMU does not start: {error}") from None

    def _start(self, kind, number, network):
        self.kind = kind
        self.release = None
        os.makedirs(FOLDER, exist_ok=True)
        self.console = tempfile.TemporaryFile(dir=FOLDER)
        outer, inner = socket.socketpair()
        disk = tempfile.TemporaryFile(dir=FOLDER)
        disk.truncate(DISK_SIZE)
        subprocess.run([shutil.which("mke2fs", path=os.environ["PATH"] + ":/usr/sbin:/sbin") or "mke2fs",
                        "-q", "-t", "ext4", "-O", "^has_journal", "-F", f"/proc/self/fd/{disk.fileno()}"],
                       pass_fds=[disk.fileno()], check=True, stdin=subprocess.DEVNULL)
        passed = [inner.fileno(), disk.fileno()]
        words = [
            "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64",
            # One thread, and one processor unless asked otherwise: see README.md, What TCG gets
            # wrong.
            "-accel", "tcg,thread=single,tb-size=1024", "-machine", "q35",
            "-cpu", "EPYC-Rome,+svm,+npt,-xsaves", "-smp", str(kind.cpus), "-m", kind.memory,
            "-display", "none", "-monitor", "none", "-no-reboot", "-serial", "stdio", "-nic", "none",
            "-kernel", f"{FOLDER}/{kind.kernel}/vmlinuz", "-initrd", f"{FOLDER}/{kind.kernel}/initramfs.cpio",
            "-append", " ".join([
                # A busy outer machine makes the kernel's own measurements go wrong: of the TSC (its
                # clock would then run at another speed) and of the timer (it panics).
                "console=ttyS0 quiet mitigations=off panic=-1 nokaslr "
                f"tsc=reliable tsc_early_khz={tsc_khz()} no_timer_check",
                f"snapvm.agent={ROOT}/tests/hosts/agent.py snapvm.checkout={ROOT} snapvm.number={number}",
                f"snapvm.kvm=npt={1 if kind.paging == 'nested' else 0}"]),
            "-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
            "-drive", f"if=virtio,file=/proc/self/fd/{disk.fileno()},format=raw,cache=unsafe,discard=unmap",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={inner.fileno()}",
            "-device", "virtserialport,chardev=agent,name=agent",
        ]
        if network is not None:
            passed.append(network.fileno())
            words += ["-netdev", f"socket,id=net,fd={network.fileno()}",
                      "-device", f"virtio-net-pci,netdev=net,mac=52:54:00:77:00:{number:02x}"]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.console, stderr=self.console,
                                        pass_fds=passed)
        self.agent = outer
        inner.close()
        disk.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def log(self):
        """What the host's kernel and QEMU said so far."""
        self.console.seek(0)
        lines = self.console.read().decode(errors="replace").split("\n")
        return "\n".join(line.rstrip() for line in lines if "TCG doesn't support" not in line)

    def ready(self):
        """Waits until commands can be run. Fails with HostError."""
        answer = self._answer(time.monotonic() + BOOT_LIMIT)
        self.release = answer["ready"]
        return self

    def run(self, argv, limit, on_output=None, keep=True, terminal=None, stdin=None):
        """Runs a command in the checkout, with this process' SNAPVM_TEST_ variables, ended after
        `limit` seconds.

        on_output(stream, bytes) is called with what it says; keep: the result has it, too.
        terminal: (rows, columns) of one that it runs on.
        stdin: a descriptor that its input is read from; without it there is none.
        """
        self._say(argv=argv, limit=limit, terminal=terminal, env=test_variables())
        if stdin is None:
            self._say(input=None)
        self.stdin = stdin
        deadline = time.monotonic() + limit + GRACE
        result = Result()
        while True:
            try:
                answer = self._answer(deadline)
            except HostError as error:
                raise HostError(f"{error}\nwhat the command said:\n{result.text[-4000:]}") from None
            for stream in ("out", "err"):
                if stream in answer:
                    data = base64.b64decode(answer[stream])
                    if on_output:
                        on_output(stream, data)
                    if keep:
                        getattr(result, stream).extend(data)
            if "exit" in answer:
                result.code, result.timed_out, result.seconds = answer["exit"], answer["timed_out"], answer["seconds"]
                return result

    def end(self):
        """Powers the host off; within ten seconds, or by force."""
        try:
            self._say(poweroff=True)
            self.process.wait(10)
        except (OSError, HostError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.agent.close()

    def _say(self, **request):
        try:
            self.agent.settimeout(GRACE)
            self.agent.sendall(self.unsent + line_of(request))
            self.unsent = b""
        except OSError as error:
            raise HostError(f"the host takes no command: {error}\n{self.log()[-4000:]}") from None

    def _answer(self, deadline):
        while b"\n" not in self.taken:
            left = deadline - time.monotonic()
            if left <= 0:
                raise HostError(f"the host hangs\n{self.log()[-4000:]}")
            try:
                self._exchange(left)
            except OSError as error:
                raise HostError(f"the host is gone: {error}\n{self.log()[-4000:]}") from None
        line, _, self.taken = self.taken.partition(b"\n")
        return json.loads(line)

    def _exchange(self, seconds):
        """Waits until the agent has said something, or takes more of the command's input. Never for
        one alone: the agent may wait for the other."""
        poll = select.poll()
        poll.register(self.agent, select.POLLIN | (select.POLLOUT if self.unsent else 0))
        if self.stdin is not None and not self.unsent:
            poll.register(self.stdin, select.POLLIN)
        ready = dict(poll.poll(seconds * 1000))
        socket_ready = ready.get(self.agent.fileno(), 0)
        if self.stdin in ready:
            try:
                data = os.read(self.stdin, 65536)
            except OSError:  # closed, or a terminal that is gone
                data = b""
            self.unsent = line_of({"input": base64.b64encode(data).decode() if data else None})
            if not data:
                self.stdin = None
        elif socket_ready & select.POLLOUT:
            self.unsent = self.unsent[self.agent.send(self.unsent):]
        if socket_ready & ~select.POLLOUT:
            chunk = self.agent.recv(1 << 20)
            if not chunk:
                raise HostError(f"the host has ended\n{self.log()[-4000:]}")
            self.taken += chunk


def test_variables():
    """What tests are told by the environment, but for the kernel arguments: `init` knows those that
    this kind of host needs."""
    return {name: value for name, value in os.environ.items()
            if name.startswith("SNAPVM_TEST_") and name != "SNAPVM_TEST_KERNEL_ARGUMENTS"}


def line_of(request):
    return json.dumps(request).encode() + b"\n"


def pair(kind):
    """Two hosts that see each other: 10.77.0.1 and 10.77.0.2."""
    one, two = socket.socketpair()
    hosts = [Host(kind, 1, one), Host(kind, 2, two)]
    one.close()
    two.close()
    return hosts
