# SPDX-License-Identifier: Apache-2.0
"""Runs cases on hosts side by side; a host that hangs or ends is a failure of the test it was at, and another takes its place."""
import sys
import threading
import time
from dataclasses import dataclass

import cases
import kvm_host


@dataclass
class Outcome:
    name: str
    status: str  # passed, failed, skipped
    seconds: float = 0
    output: str = ""


class Worker(threading.Thread):
    """One host after the other, for as long as there are cases."""

    def __init__(self, plan, takes_linux):
        super().__init__(daemon=True)
        self.plan = plan
        self.takes_linux = takes_linux
        self.host = None
        self.linux_booted = False

    def run(self):
        while (case := self.plan.next(self.takes_linux)) is not None:
            try:
                if case.on_linux and not case.name.startswith("linux.LinuxBoot.") and not self.linux_booted:
                    self.carry_out(self.plan.linux_boot)
                self.plan.add(self.carry_out(case))
            except kvm_host.HostError as error:
                self.plan.add(Outcome(case.name, "failed", 0, str(error)))
                self.give_up_host()
        self.give_up_host()

    def carry_out(self, case):
        if self.host is None:
            self.host = kvm_host.Host(self.plan.kind)
            self.host.ready()
        result = self.host.run(list(case.argv), cases.LIMIT)
        text = result.text
        if result.timed_out:
            return Outcome(case.name, "failed", result.seconds, f"{text}\nended after {cases.LIMIT} s")
        if result.code != 0:
            return Outcome(case.name, "failed", result.seconds, f"{text}\nexit code {result.code}")
        if "[  SKIPPED ]" in text and "needs /dev/kvm" in text:
            return Outcome(case.name, "failed", result.seconds, f"{text}\nthis host has a KVM")
        if "[  SKIPPED ]" in text:
            return Outcome(case.name, "skipped", result.seconds, text)
        self.linux_booted = self.linux_booted or case.name == cases.LINUX_BOOT
        return Outcome(case.name, "passed", result.seconds, text)

    def give_up_host(self):
        self.linux_booted = False
        if self.host is not None:
            self.plan.keep_log(self.host.log())
            self.host.end()
            self.host = None


class Plan:
    def __init__(self, kind, chosen, minutes, repeat, log_path):
        self.kind = kind
        self.lock = threading.Lock()
        self.log_path = log_path
        self.deadline = time.monotonic() + minutes * 60 if minutes else None
        self.linux_boot = next((c for c in cases.all_cases(kind) if c.name == cases.LINUX_BOOT), None)
        runs = [c for c in chosen if not c.skip for _ in range(repeat)]
        self.left = sorted(runs, key=lambda c: (c.name != cases.LINUX_BOOT, -c.seconds))
        self.outcomes = [Outcome(c.name, "skipped", 0, f":0: Skipped\n{c.skip}\n[") for c in chosen if c.skip]
        self.total = len(runs)
        open(log_path, "w", encoding="utf-8").close()

    def next(self, takes_linux):
        """The next case, or None. Linux tests need the machine that one of them boots, so one worker takes them all, before others."""
        with self.lock:
            late = self.deadline is not None and time.monotonic() > self.deadline
            if late:
                self.outcomes += [Outcome(c.name, "skipped", 0, ":0: Skipped\nno time was left (--minutes)\n[") for c in self.left]
                self.left = []
            wanted = [c for c in self.left if c.on_linux] if takes_linux else []
            wanted = wanted or [c for c in self.left if not c.on_linux]
            if not wanted:
                return None
            self.left.remove(wanted[0])
            return wanted[0]

    def add(self, outcome):
        with self.lock:
            self.outcomes.append(outcome)
            if sys.stderr.isatty() or outcome.status == "failed":
                print(f"   {len(self.outcomes)}/{self.total} {outcome.status} {outcome.name} ({outcome.seconds:.1f} s)", file=sys.stderr)

    def keep_log(self, text):
        with self.lock, open(self.log_path, "a", encoding="utf-8") as file:
            file.write(text + "\n")


def run(kind, chosen, jobs, log_path, minutes=None, repeat=1):
    """The outcomes of all chosen cases, each run `repeat` times, on so many hosts of a kind."""
    plan = Plan(kind, chosen, minutes, repeat, log_path)
    workers = [Worker(plan, number == 0) for number in range(max(1, min(jobs, plan.total)))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return plan.outcomes
