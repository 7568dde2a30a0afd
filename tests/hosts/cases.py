# SPDX-License-Identifier: Apache-2.0
"""The tests that run on a host: which there are, which are left out and why, and how long each
takes."""
import fnmatch
import os
import re
import subprocess
from dataclasses import dataclass

from kvm_host import ROOT

BUILD = os.path.join(ROOT, "build", "release")
LISTS = os.path.join(ROOT, "tests", "hosts", "amd_v")
# Programs and their tests: everything that needs a KVM, and what kills and starves the writer of a
# snapshot.
PROGRAMS = {"conformance": "*", "kvm": "*", "linux": "*", "unit": "*/Crash.*"}
LIMIT = 600  # seconds for a test: five times what an ordinary host has
PARTS = 4  # of the slow tests; a run that a commit selects takes one


@dataclass(frozen=True)
class Case:
    name: str  # PROGRAM.Suite.Name
    argv: tuple
    seconds: float = 2  # what it took before
    skip: str = ""  # why it is left out here

    @property
    def on_linux(self):
        return self.name.startswith("linux.")

    @property
    def needs_linux_boot(self):
        """Whether it restores the machine that LINUX_BOOT leaves."""
        return self.on_linux and not self.name.startswith(("linux.LinuxBoot.", "linux.LinuxDebian."))

    def passed(self, output):
        """Whether the test ran and passed, of a command that ended with 0."""
        return not self.argv[0].endswith("_tests") or "[  PASSED  ] 1 test." in output


def test_case(program, test, seconds=2, skip=""):
    return Case(f"{program}.{test}", (f"build/release/tests/{program}_tests", f"--gtest_filter={test}"), seconds, skip)


LINUX_BOOT = test_case("linux", "LinuxBoot.GetsToAShell")  # boots the machine that the other Linux tests restore
SMOKE = ["demo", LINUX_BOOT.name, "linux.LinuxDevices.AFileSystemIsOnTheDisk"]


def lines_of(name):
    """The lines of a list beside amd_v/init, less comments."""
    with open(os.path.join(LISTS, name), encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip() and not line.startswith("#")]


def skips(kind):
    """[(pattern, reason)] that hold on this kind of host. A line is
    `PATTERN [KERNEL|PAGING]: REASON`."""
    found = []
    for line in lines_of("skips"):
        pattern, condition, reason = re.fullmatch(r"(\S+?)(?: \[(\w+|\d\.\d)\])?: (.+)", line).groups()
        if condition in (None, kind.kernel, kind.paging):
            found.append((pattern, reason))
    return found


def listed(program, tests):
    """The names of a program's tests."""
    path = os.path.join(BUILD, "tests", f"{program}_tests")
    output = subprocess.run([path, "--gtest_list_tests", f"--gtest_filter={tests}"],
                            capture_output=True, text=True, check=True).stdout
    suite, names = "", []
    for line in output.split("\n"):
        if line and not line.startswith(" "):
            suite = line.split()[0]
        elif line.strip():
            names.append(suite + line.split()[0])
    if not names:
        raise SystemExit(f"amd-v host: {path} has no test that matches {tests}")
    return names


def all_cases(kind):
    seconds = {name: float(took) for took, name in (line.split() for line in lines_of("seconds"))}
    left_out = skips(kind)
    cases = [Case("demo", ("build/release/snapvm", "demo"), 15)]
    for program, tests in PROGRAMS.items():
        for test in listed(program, tests):
            name = f"{program}.{test}"
            reason = next((reason for pattern, reason in left_out if fnmatch.fnmatchcase(name, pattern)), "")
            cases.append(test_case(program, test, seconds.get(name, 2), reason))
    return cases


def part_of(cases, number):
    """All quick tests, and one part of the slow ones; what Linux boots belongs to every part."""
    slow = [case for case in cases if case.seconds >= 20 and case.name != LINUX_BOOT.name]
    return [case for case in cases if case not in slow or slow.index(case) % PARTS == number % PARTS]


def chosen(kind, only=None, smoke=False, part=None):
    cases = all_cases(kind)
    if smoke:
        cases = [case for case in cases if case.name in SMOKE]
    if only:
        cases = [case for case in cases if re.search(only, case.name)]
    return cases if part is None else part_of(cases, part)
