#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts what does not depend on a host's speed, on this host and on an AMD-V host in QEMU, side by
side.

counts.py            prints the table; `./dev bench --host amd-v` calls it
counts.py measure    counts on the host that it runs on, and prints JSON: {what: count}
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("SNAPVM_BUILD", os.path.join(ROOT, "build", "release"))
SNAPVM = os.path.join(BUILD, "snapvm")
BENCH = os.path.join(BUILD, "bench", "snapvm-bench")
RUNS = 5


def run(*words, **more):
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, **more)
    if done.returncode != 0:
        sys.exit(f"counts: {' '.join(words)}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def check_tools():
    """Ends this with one line if a program is missing."""
    for program, advice in ((SNAPVM, "./dev bench --host amd-v builds it"),
                            (BENCH, "./dev bench --host amd-v builds it"),
                            ("strace", "apt-get install strace")):
        if shutil.which(program) is None:
            sys.exit(f"counts: {program} is missing: {advice}")


def median(values):
    return sorted(values)[len(values) // 2]


def of_requests(folder):
    """Exits, interrupts and notifications a request of a guest's disk, as `snapvm-bench blk` counts
    them."""
    samples = os.path.join(folder, "blk.jsonl")
    run(BENCH, "blk", "--runs", str(RUNS), "--warm-up", "1", "--snapvm", SNAPVM, "--out", samples)
    found = {}
    with open(samples, encoding="utf-8") as file:
        for sample in map(json.loads, file):
            for figure, value in sample.get("figures", {}).items() if sample.get("side") == "ours" else ():
                if figure.endswith("_a_request") and "cpu" not in figure:
                    found.setdefault(f"blk, {sample['case']}: {figure.replace('_', ' ')}", []).append(value)
    return {what: median(values) for what, values in found.items()}


def of_snapshot(folder, area):
    """Rounds, pages and bytes of a live snapshot of the ledger guest, which writes 64 MiB and then
    20,000 pages a second."""
    base = [SNAPVM, "--run-dir", os.path.join(folder, "run")]
    try:
        run(*base, "run", "--kernel", "builtin:ledger", "--cmdline", "ws=64M stir=32M stirrate=20000",
            "--mem", "256M", "--name", "counts", "-d", "--timeout", "300s")
        run(*base, "wait", "counts", "--for", "ready", "--timeout", "60s")
        report = json.loads(run(*base, "--json", "snapshot", "counts", area, "--then", "stop"))
    finally:
        # Where all went well there is nothing to stop. The machine's own limit is for a process
        # that is killed.
        subprocess.run([*base, "stop", "counts", "--force"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    rounds = [one["dirty_pages"] for one in report["rounds"]]
    return {
        "snapshot: rounds": len(rounds),
        "snapshot: pages of the first round": rounds[0],
        "snapshot: pages of a later round": median(rounds[1:] or [0]),
        "snapshot: written MiB": report["written_bytes"] / 2**20,
        **{f"snapshot: {kind} pages": count for kind, count in report["pages"].items()},
    }


def of_restore(folder, area):
    """System calls and page faults of `snapvm restore`, from the start of its process."""
    words = [SNAPVM, "--run-dir", os.path.join(folder, "run"), "restore", area,
             "--serial", "none", "--timeout", "300ms"]
    faults = []
    for _ in range(RUNS):
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status) != 124:
            sys.exit(f"counts: restore: {said.decode()}")
        faults.append(usage.ru_minflt)
    trace = os.path.join(folder, "trace")
    traced = subprocess.run(["strace", "-f", "-qq", "-e", "signal=none", "-o", trace, *words],
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            text=True, check=False)
    if traced.returncode != 124:
        sys.exit(f"counts: restore under strace: {traced.stderr}")
    calls = {}
    with open(trace, encoding="utf-8", errors="replace") as file:
        for line in file:
            if "KVM_RUN" in line:
                break
            if call := re.match(r"\d+ +(\w+)\(", line):
                calls[call[1]] = calls.get(call[1], 0) + 1
    return {
        "restore: ioctls before the first KVM_RUN": calls.get("ioctl", 0),
        "restore: mmaps before the first KVM_RUN": calls.get("mmap", 0),
        "restore: system calls before the first KVM_RUN": sum(calls.values()),
        "restore: minor page faults, 300 ms of the guest included": median(faults),
    }


def measure():
    check_tools()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        area = os.path.join(folder, "area")
        return of_requests(folder) | of_snapshot(folder, area) | of_restore(folder, area)


def text(value):
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def table():
    print("counts: here", file=sys.stderr)
    here = measure()
    print("counts: on the AMD-V host", file=sys.stderr)
    there = json.loads(run(os.path.join(ROOT, "tests", "hosts", "run.py"),
                           "--", "python3", "bench/counts.py", "measure"))
    width = max(map(len, here | there))
    print(f"{'':{width}}  {'here':>12}  {'AMD-V, TCG':>12}")
    for what in here | there:
        print(f"{what:{width}}  {text(here.get(what)):>12}  {text(there.get(what)):>12}")


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        print(json.dumps(measure()))
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        table()
