# SPDX-License-Identifier: Apache-2.0
"""Tests of two hosts that see each other: what one has saved, the other restores.

Each has booted by itself, so that their TSCs differ.
"""
import os
import re
import threading

import kvm_host
from plan import Outcome

SNAPVM = "build/release/snapvm"
CARRY = ["python3", "tests/hosts/carry_file.py"]
LIMIT = 240  # seconds for a script
CLOCK_SLACK = 5  # seconds; the guest's answer takes some
IMAGE = os.path.join(kvm_host.ROOT, "build", "linux")

# What a script may use: a guest's serial port is on the files in and out. `said PATTERN N` waits
# until N lines of out match. `go_on PATTERN COMMAND NAME…` has the guest carry out COMMAND, whose
# answer is a line that matches, until each NAME=NUMBER there is larger than it was at first. How
# soon that is depends on the host's load; that it never is, is what a script's time limit finds.
TALK = f"""
    cd {kvm_host.ROOT}
    rm -f /tmp/in /tmp/out; mkfifo /tmp/in; exec 3<>/tmp/in
    said() {{ until [ "$(grep -acE "$1" /tmp/out)" -ge "$2" ]; do sleep 0.2; done; }}
    larger() {{
        tr -d '\\r' </tmp/out | grep -aE "$1" | awk -v names="${{*:2}}" '
            {{ for (i = 1; i <= NF; ++i) if (split($i, part, "=") == 2) {{
                if (NR == 1) first[part[1]] = part[2]
                last[part[1]] = part[2] }} }}
            END {{ n = split(names, name, " ")
                  for (i = 1; i <= n; ++i) if (!(name[i] in first) || last[name[i]] <= first[name[i]]) exit 1 }}'
    }}
    go_on() {{
        local asked=0
        until [ $asked -gt 1 ] && larger "$1" "${{@:3}}"; do
            echo "$2" >&3
            asked=$((asked + 1))
            said "$1" $asked
            sleep 1
        done
    }}
"""
# The date of guest and host, at once.
ASK_DATE = "echo 'echo; echo DATE=$(date +%s)' >&3; said '^DATE=[0-9]' 1; echo HOST=$(date +%s)"


class Wrong(Exception):
    """What was seen is not what must be."""


class Skipped(Exception):
    """The test cannot run here."""


def shell(host, script):
    """The output of a script that must end with 0, within LIMIT."""
    result = host.run(["bash", "-euo", "pipefail", "-c", TALK + script], LIMIT)
    if result.code != 0 or result.timed_out:
        ended = "ended by force" if result.timed_out else f"exit code {result.code}"
        out = host.run(["cat", "/tmp/out"], 10).text
        raise Wrong(f"{script}\n{result.text}\n{ended}; the guest said:\n{out}")
    return result.out.decode(errors="replace")


def carry(one, two, path):
    """Copies a file from the first host to the same place on the second."""
    received = kvm_host.Result()
    thread = threading.Thread(target=lambda: received.out.extend(two.run([*CARRY, "receive", path], LIMIT).out))
    thread.start()
    sent = one.run([*CARRY, "send", path, "10.77.0.2"], LIMIT)
    thread.join()
    if sent.code != 0 or sent.out != received.out:
        raise Wrong(f"{path} does not arrive: {sent.text}")


def lead(said):
    """Seconds by which the guest's date is ahead of its host's."""
    host, guest = (int(re.search(rf"^{who}=(\d+)", said, re.MULTILINE)[1]) for who in ("HOST", "DATE"))
    return guest - host


def ledger_goes_on_elsewhere(one, two):
    """A ledger with ticks: memory, kvmclock, TSC and timers verify on the other host, and the ticks
    go on."""
    shell(one, f"""
        {SNAPVM} run --kernel builtin:ledger --cmdline 'ws=16M' --mem 64M --name a -d >/dev/null
        {SNAPVM} wait a --for ready --timeout 120s >/dev/null
        sleep 2
        {SNAPVM} snapshot a /var/tmp/ledger.snap --then stop >/dev/null""")
    carry(one, two, "/var/tmp/ledger.snap")
    for clock in ("continue", "resume"):
        said = shell(two, f"""
            {SNAPVM} verify /var/tmp/ledger.snap >/dev/null
            {SNAPVM} restore /var/tmp/ledger.snap --clock {clock} --timeout 200s </tmp/in >/tmp/out &
            go_on 'LEDGER (OK|BAD)' v ticks steps
            printf q >&3
            wait $!
            cat /tmp/out""")
        if "LEDGER OK" not in said or "LEDGER BAD" in said:
            raise Wrong(f"the ledger does not verify:\n{said}")


def linux_goes_on_elsewhere(one, two):
    """A Linux at work: its load checks itself on the other host, and goes on; its clock has the
    lead over the host's that it had."""
    if not os.path.exists(f"{IMAGE}/initramfs.cpio"):
        raise Skipped("the Linux image is not built: ./dev linux")
    before = shell(one, f"""
        {SNAPVM} run --kernel {IMAGE}/vmlinux --initrd {IMAGE}/initramfs.cpio --mem 128M --name l --timeout 230s \\
            --cmdline "console=ttyS0 clocksource=kvm-clock $SNAPVM_TEST_KERNEL_ARGUMENTS" \\
            </tmp/in >/tmp/out 2>/tmp/err &
        said 'SNAPVM LINUX READY' 1
        echo 'guest-tool load forever 2 64 >/run/verdict &' >&3
        echo 'until grep -q RUNNING /run/load; do sleep 0.2; done; echo AT-"WORK"' >&3
        said 'AT-WORK' 1
        {ASK_DATE}
        {SNAPVM} snapshot l /var/tmp/linux.snap --then stop >/dev/null
        tr -d '\\r' </tmp/out""")
    carry(one, two, "/var/tmp/linux.snap")
    said = shell(two, f"""
        {SNAPVM} restore /var/tmp/linux.snap --clock continue --timeout 230s </tmp/in >/tmp/out 2>/tmp/err &
        {ASK_DATE}
        go_on '^LOAD RUNNING' 'cat /run/load' steps forks sleeps ticks
        echo 'kill $!; wait; cat /run/verdict' >&3; said 'LOAD (OK|BAD)' 1
        echo 'dmesg | grep -iE "stall|lockup|oops|BUG:"; poweroff' >&3
        wait $!
        tr -d '\\r' </tmp/out""")
    if abs(lead(said) - lead(before)) > CLOCK_SLACK:
        raise Wrong(f"the guest's clock was {lead(before)} s ahead of its host's, and is {lead(said)}:\n"
                    f"{before}\n{said}")
    if "LOAD OK" not in said:
        raise Wrong(f"the load finds a fault:\n{said}")


TESTS = [linux_goes_on_elsewhere, ledger_goes_on_elsewhere]


def run(kind, log_path):
    """The outcomes of all of them, on one pair of hosts. A host that fails ends the pair, and what
    is left fails with it."""
    outcomes = []
    broken = None
    one, two = kvm_host.pair(kind)
    with one, two:
        try:
            one.ready()
            two.ready()
        except kvm_host.HostError as error:
            broken = str(error)
        for test in TESTS:
            name = f"two-hosts.{test.__name__}"
            if broken:
                outcomes.append(Outcome(name, "failed", 0, broken))
                continue
            try:
                test(one, two)
                outcomes.append(Outcome(name, "passed"))
            except Skipped as reason:
                outcomes.append(Outcome(name, "skipped", 0, f":0: Skipped\n{reason}\n["))
            except Wrong as error:
                outcomes.append(Outcome(name, "failed", 0, str(error)))
            except kvm_host.HostError as error:
                broken = str(error)
                outcomes.append(Outcome(name, "failed", 0, broken))
        with open(log_path, "w", encoding="utf-8") as file:
            file.write(one.log() + "\n" + two.log())
    return outcomes
