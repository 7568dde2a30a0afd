# SPDX-License-Identifier: Apache-2.0
"""Runs cases on hosts side by side; a host that hangs or ends is a failure of the test it was at,
and another takes its place."""
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
        self.linux_boot = None  # its outcome on this host

    def run(self):
        while (case := self.plan.next(self.takes_linux)) is not None:
            try:
                outcome = self.outcome_of(case)
            except Exception as error:  # whatever it is, the case is not lost
                outcome = Outcome(case.name, "failed", 0, f"{type(error).__name__}: {error}")
                self.give_up_host()
            self.plan.add(outcome)
        self.give_up_host()

    def outcome_of(self, case):
        if case.needs_linux_boot:
            if self.linux_boot is None:
                self.linux_boot = self.carry_out(cases.LINUX_BOOT)
            if self.linux_boot.status != "passed":
                return Outcome(case.name, self.linux_boot.status, 0, self.linux_boot.output)
        outcome = self.carry_out(case)
        if case.name == cases.LINUX_BOOT.name:
            self.linux_boot = outcome
        return outcome

    def carry_out(self, case):
        if self.host is None:
            self.host = self.plan.start_host()
        result = self.host.run(list(case.argv), cases.LIMIT)
        text = result.text
        if result.timed_out:
            self.give_up_host()  # what the test left behind would be in the way of others
            return Outcome(case.name, "failed", result.seconds, f"{text}\nended after {cases.LIMIT} s")
        if result.code != 0:
            return Outcome(case.name, "failed", result.seconds, f"{text}\nexit code {result.code}")
        if "[  SKIPPED ]" in text:
            if "needs /dev/kvm" in text:
                return Outcome(case.name, "failed", result.seconds, f"{text}\nthis host has a KVM")
            return Outcome(case.name, "skipped", result.seconds, text)
        if not case.passed(text):
            return Outcome(case.name, "failed", result.seconds, f"{text}\nno test ran")
        return Outcome(case.name, "passed", result.seconds, text)

    def give_up_host(self):
        self.linux_boot = None
        if self.host is not None:
            self.plan.keep_log(self.host.log())
            self.host.end()
            self.host = None


class Plan:
    def __init__(self, kind, chosen, minutes, repeat, log_path):
        self.kind = kind
        self.lock = threading.Lock()
        self.log_path = log_path
        self.deadline = time.monotonic() + minutes * 60 if minutes is not None else None
        runs = [c for c in chosen if not c.skip for _ in range(repeat)]
        self.left = sorted(runs, key=lambda c: (c.name != cases.LINUX_BOOT.name, -c.seconds))
        self.outcomes = [Outcome(c.name, "skipped", 0, f":0: Skipped\n{c.skip}\n[") for c in chosen if c.skip]
        self.total = len(runs) + len(self.outcomes)
        self.hosts_fail = False  # to start, twice in a row
        with open(log_path, "w", encoding="utf-8"):
            pass  # empty

    def start_host(self):
        """A host that is ready, at the second try at most. Fails with HostError; at once where
        others have failed before."""
        for last in (False, True):
            if self.hosts_fail:
                raise kvm_host.HostError("hosts do not start here: no more are tried")
            host = kvm_host.Host(self.kind)
            try:
                return host.ready()
            except kvm_host.HostError as error:
                host.end()
                self.keep_log(str(error))
                self.hosts_fail = last
                if last:
                    raise

    def next(self, takes_linux):
        """The next case, or None. One worker takes all Linux tests, before others: they need the
        machine that one of them boots."""
        with self.lock:
            late = self.deadline is not None and time.monotonic() > self.deadline
            if late:
                self.outcomes += [Outcome(c.name, "skipped", 0, ":0: Skipped\nno time was left (--minutes)\n[")
                                  for c in self.left]
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
                of = f"{len(self.outcomes)}/{self.total}"
                print(f"   {of} {outcome.status} {outcome.name} ({outcome.seconds:.1f} s)", file=sys.stderr)

    def keep_log(self, text):
        with self.lock, open(self.log_path, "a", encoding="utf-8") as file:
            file.write(text + "\n")


def run(kind, chosen, jobs, log_path, minutes=None, repeat=1):
    """The outcomes of all chosen cases, each run `repeat` times, on `jobs` hosts of a kind."""
    plan = Plan(kind, chosen, minutes, repeat, log_path)
    workers = [Worker(plan, number == 0) for number in range(max(1, min(jobs, plan.total)))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lost = plan.total - len(plan.outcomes)
    if lost != 0:
        plan.outcomes.append(Outcome("amd-v.plan", "failed", 0, f"{lost} tests have no result"))
    return plan.outcomes
