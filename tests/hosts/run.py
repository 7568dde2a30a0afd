#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs tests, or a command, on a KVM host in QEMU (kvm_host.py). `./dev test --host amd-v` is the
way to call it; README.md explains it."""
import argparse
import dataclasses
import hashlib
import os
import sys
import termios
import time
import tty

import cases
import kvm_host
import plan
import report
import two_hosts


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def hosts_that_fit():
    """One a processor, as far as the memory goes: a host takes 7 GiB at most."""
    with open("/proc/meminfo", encoding="ascii") as file:
        available = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    return max(1, min(len(os.sched_getaffinity(0)), available // (7 << 20)))


def arguments():
    parser = argparse.ArgumentParser(prog="./dev test --host amd-v",
                                     description="Runs tests on an AMD-V host in QEMU, or one command there.")
    parser.add_argument("--kernel", choices=["6.1", "backports"], default="6.1",
                        help="Debian 12's kernel (default) or its backports' newest")
    parser.add_argument("--paging", choices=["nested", "shadow"], default="nested",
                        help="the paging of its KVM's guests")
    parser.add_argument("--cpus", type=int, choices=[1, 2], default=1,
                        help="its processors; with two, TCG delivers some interrupts twice (README.md)")
    parser.add_argument("--hosts", type=int, choices=[1, 2], default=1,
                        help="2: the tests of two hosts that see each other")
    parser.add_argument("--only", metavar="REGEX", help="the tests whose name, PROGRAM.Suite.Name, matches")
    parser.add_argument("--repeat", type=positive, default=1, metavar="N", help="runs each test N times")
    parser.add_argument("--jobs", type=positive, default=hosts_that_fit(), metavar="N",
                        help="N hosts side by side (default here: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="the few that every ./dev test runs")
    parser.add_argument("--commit", metavar="HASH",
                        help="kind of host and part of the slow tests are chosen by this commit")
    parser.add_argument("--minutes", type=float, metavar="M", help="no test starts later than this")
    parser.add_argument("--results", metavar="FILE", help="where the results go, as JUnit's XML")
    parser.add_argument("command", nargs="*", metavar="-- COMMAND",
                        help="one command, or a shell without words, in place of tests")
    words = sys.argv[1:]
    asked = parser.parse_args(words)
    asked.is_command = "--" in words
    if asked.command and not asked.is_command:
        parser.error(f"there is no argument {asked.command[0]}; "
                     "--only REGEX chooses tests, and a command stands behind --")
    return asked


def chosen_by(commit):
    """(kind of host, number of the slow tests' part) of a commit: each value as often as any
    other."""
    bits = int(hashlib.sha256(commit.encode()).hexdigest(), 16)
    return kvm_host.Kind("backports" if bits & 1 else "6.1", "shadow" if bits & 2 else "nested"), bits >> 2


def show(stream, data):
    """Passes a command's output on; all of it, to a slow reader too."""
    try:
        while data:
            data = data[os.write(1 if stream == "out" else 2, data):]
    except BrokenPipeError:
        sys.exit(1)


def run_command(kind, words):
    """One command with this process' input and output; a shell where there are no words. Returns
    its exit code."""
    on_terminal = os.isatty(0) and os.isatty(1)
    words = words or ["bash", "-i"]
    with kvm_host.Host(kind) as host:
        print(f"amd-v host ({kind}) starts", file=sys.stderr)
        host.ready()
        size = os.get_terminal_size() if on_terminal else None
        before = termios.tcgetattr(0) if on_terminal else None
        try:
            if on_terminal:
                tty.setraw(0)
            result = host.run(words, 24 * 3600, on_output=show, keep=False,
                              terminal=(size.lines, size.columns) if size else None, stdin=0)
        finally:
            if before:
                termios.tcsetattr(0, termios.TCSADRAIN, before)
    return result.code


def main():
    asked = arguments()
    kind = kvm_host.Kind(asked.kernel, asked.paging, asked.cpus)
    part = None
    if asked.commit:
        kind, part = chosen_by(asked.commit)
    missing = kvm_host.image(kind.kernel)
    if missing and asked.commit:
        print(f"   {missing}: the host has kernel 6.1")
        kind = dataclasses.replace(kind, kernel="6.1")
        missing = kvm_host.image(kind.kernel)
    if missing:
        sys.exit(missing)
    if asked.is_command:
        return run_command(kind, asked.command)
    began = time.monotonic()
    # A log for each file of results, so that one phase of a run keeps another's.
    log_path = os.path.join(
        kvm_host.FOLDER,
        "log" if not asked.results else os.path.splitext(os.path.basename(asked.results))[0] + ".log")
    if asked.hosts == 2:
        outcomes = two_hosts.run(kind, log_path)
    else:
        chosen = cases.chosen(kind, asked.only, asked.smoke, part)
        if not chosen:
            sys.exit(f"amd-v host: no test matches {asked.only}; their names are PROGRAM.Suite.Name")
        outcomes = plan.run(kind, chosen, asked.jobs, log_path, asked.minutes, asked.repeat)
    if asked.results:
        report.write(asked.results, outcomes)
    print(report.line(kind, outcomes, time.monotonic() - began))
    failed = any(outcome.status == "failed" for outcome in outcomes)
    if failed:
        print(f"   what the hosts' kernels said: {log_path}")
    return 1 if failed or not outcomes else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except kvm_host.HostError as error:
        sys.exit(f"amd-v host: {error}")
