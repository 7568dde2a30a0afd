# SPDX-License-Identifier: Apache-2.0
"""Tests of two hosts that see each other: what one has written, the other reads. Each has booted by itself, so that their TSCs differ."""
import re
import threading

import kvm_host
from plan import Outcome

SNAPVM = "build/release/snapvm"
CARRY = ["python3", "tests/hosts/carry_file.py"]
LIMIT = 180


class Wrong(Exception):
    """What was seen is not what must be."""


def shell(host, script, limit=LIMIT):
    """The output of a script that must end with 0."""
    result = host.run(["bash", "-euo", "pipefail", "-c", script], limit)
    if result.code != 0 or result.timed_out:
        raise Wrong(f"{script}\n{result.text}\nexit code {result.code}{', ended by force' if result.timed_out else ''}")
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


def ledger_goes_on_elsewhere(one, two):
    """A ledger with ticks restores on the other host: memory, clock, TSC and timers verify there, and the ticks go on."""
    shell(one, f"""
        {SNAPVM} run --kernel builtin:ledger --cmdline 'ws=16M' --mem 64M --name a -d >/dev/null
        {SNAPVM} wait a --for ready --timeout 60s >/dev/null
        sleep 2
        {SNAPVM} snapshot a /var/tmp/ledger.snap --then stop >/dev/null""")
    carry(one, two, "/var/tmp/ledger.snap")
    for clock in ("continue", "resume"):
        said = shell(two, f"""
            {SNAPVM} verify /var/tmp/ledger.snap >/dev/null
            (sleep 3; printf v; sleep 3; printf q; sleep 10) | {SNAPVM} restore /var/tmp/ledger.snap --clock {clock} --timeout 90s""")
        lines = [dict(re.findall(r"(\w+)=(-?\d+)", line)) for line in said.split("\n") if "LEDGER OK" in line]
        if len(lines) != 2:
            raise Wrong(f"two verdicts were to come:\n{said}")
        first, second = lines
        if not int(second["ticks"]) > int(first["ticks"]) or not int(second["steps"]) > int(first["steps"]):
            raise Wrong(f"ticks or steps stand still:\n{said}")


def linux_goes_on_elsewhere(one, two):
    """A Linux at work restores on the other host, and its date is right there."""
    tests = "build/release/tests/linux_tests"
    shell(one, f"{tests} --gtest_filter=LinuxBoot.GetsToAShell", 600)
    for name in ("booted", "disk"):
        path = f"{kvm_host.ROOT}/build/release/linux-tests/{name}"
        shell(two, f"mkdir -p {kvm_host.ROOT}/build/release/linux-tests")
        carry(one, two, path)
    said = shell(two, f"{tests} --gtest_filter='LinuxLive.WorkGoesOnAfterARestore:LinuxDevices.*'", 600)
    if "FAILED" in said or "PASSED" not in said:
        raise Wrong(said)


TESTS = [ledger_goes_on_elsewhere, linux_goes_on_elsewhere]


def run(kind, log_path):
    """The outcomes of all of them, on one pair of hosts."""
    outcomes = []
    one, two = kvm_host.pair(kind)
    with one, two:
        one.ready()
        two.ready()
        for test in TESTS:
            name = f"two-hosts.{test.__name__}"
            try:
                test(one, two)
                outcomes.append(Outcome(name, "passed"))
            except (Wrong, kvm_host.HostError) as error:
                outcomes.append(Outcome(name, "failed", 0, str(error)))
        with open(log_path, "w", encoding="utf-8") as file:
            file.write(one.log() + "\n" + two.log())
    return outcomes
