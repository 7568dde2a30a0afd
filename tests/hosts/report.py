# SPDX-License-Identifier: Apache-2.0
"""Outcomes as JUnit's XML, as ctest writes it, for tests/summary.py to count."""
import re
import xml.etree.ElementTree as ElementTree


def printable(text):
    """Without what XML cannot hold: escapes and other control characters."""
    return re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd]", "?", text)


def write(path, outcomes):
    suite = ElementTree.Element("testsuite", name="amd-v")
    for outcome in outcomes:
        status = {"passed": "run", "failed": "fail", "skipped": "notrun"}[outcome.status]
        case = ElementTree.SubElement(suite, "testcase", name=outcome.name, status=status,
                                      time=f"{outcome.seconds:.3f}")
        if outcome.status == "failed":
            ElementTree.SubElement(case, "failure", message="failed")
        if outcome.status == "skipped":
            ElementTree.SubElement(case, "skipped", message="")
        if outcome.status != "passed":
            ElementTree.SubElement(case, "system-out").text = printable(outcome.output)
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def line(kind, outcomes, seconds):
    counts = {status: sum(o.status == status for o in outcomes) for status in ("passed", "failed", "skipped")}
    return (f"   amd-v host ({kind}): " + ", ".join(f"{n} {status}" for status, n in counts.items()) +
            f", {seconds:.0f} s")
