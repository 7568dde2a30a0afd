#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts what ctest and gtest left as JUnit files, prints failures and the reasons of skips, and
ends with the one line that says it all.

summary.py [--quiet | --failures] [--kvm] FILE.xml...
The exit code is 0 if at least one test passed and none failed.
--failures: prints the failed tests of the files and their output, nothing else, and ends with 0.
--kvm: /dev/kvm is usable here, so a test that was skipped for want of it is a failure.
"""
import json
import os
import re
import sys
import xml.etree.ElementTree as ElementTree


def reason_of(case):
    """Why a test was skipped: gtest's message, out of its own file or out of the output that ctest
    kept."""
    skipped = case.find("skipped")
    message = skipped.get("message", "") if skipped is not None else ""
    output = case.findtext("system-out") or ""
    if "SKIP_RETURN_CODE" in message:
        found = re.search(r"^[\w-]+: (?:left out: )?(.* .*)$", output, re.MULTILINE)  # a benchmark's line
        message = found.group(1) if found else message
    elif "REGULAR_EXPRESSION" in message or not message:
        found = re.search(r":\d+: Skipped\n(.*?)\n\s*(?:\[|$)", output, re.DOTALL)
        message = found.group(1) if found else message or "no reason given"
    return " ".join(line for line in message.split("\n") if line and not re.match(r"^\S+\.(cc|h):\d+$", line)).strip()


def read(path):
    """(passed, [(name, output) of failures], [(name, reason) of skips])"""
    passed, failed, skipped = 0, [], []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = case.get("name")
        if case.get("result") is not None and case.get("classname"):
            name = case.get("classname") + "." + name
        failure = case.find("failure")
        status = case.get("status")
        if failure is not None or case.find("error") is not None or status == "fail":
            output = case.findtext("system-out") or "\n".join(
                f.text or f.get("message", "") for f in case.iter("failure"))
            failed.append((name, output.strip()))
        elif case.find("skipped") is not None or status in ("notrun", "disabled"):
            # ctest calls a test whose program is missing "notrun" too.
            reason = reason_of(case)
            if "Unable to find executable" in reason or "NOT_AVAILABLE" in name:
                failed.append((name, reason))
            else:
                skipped.append((name, reason))
        else:
            passed += 1
    return passed, failed, skipped


def print_failures(failures):
    for part, name, output in failures:
        print(f"FAILED {part}: {name}")
        print("\n".join("    " + line for line in output.split("\n")[-60:]))


def main(arguments):
    quiet = "--quiet" in arguments
    kvm = "--kvm" in arguments
    total_passed, all_failed, all_skipped, parts = 0, [], [], {}
    for path in sorted(a for a in arguments if not a.startswith("--") and os.path.exists(a)):
        part = os.path.splitext(os.path.basename(path))[0]
        try:
            passed, failed, skipped = read(path)
        except ElementTree.ParseError as error:
            passed, failed, skipped = 0, [(part, f"no results: {error}")], []
        if kvm:
            wrong = [s for s in skipped if "/dev/kvm" in s[1]]
            failed += [(name, f"/dev/kvm is usable here, yet this was skipped: {reason}") for name, reason in wrong]
            skipped = [s for s in skipped if s not in wrong]
        parts[part] = {"passed": passed, "failed": len(failed), "skipped": len(skipped)}
        total_passed += passed
        all_failed += [(part, *f) for f in failed]
        all_skipped += [(part, *s) for s in skipped]
    totals = {"passed": total_passed, "failed": len(all_failed), "skipped": len(all_skipped)}
    if "--failures" in arguments:
        print_failures(all_failed)
        return 0
    if not quiet:
        print_failures(all_failed)
        reasons = {}
        for part, name, reason in all_skipped:
            reasons.setdefault(reason, []).append(f"{part}: {name}")
        for reason, names in sorted(reasons.items()):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            print(f"skipped: {reason} ({names[0]}{more})")
        for part, count in parts.items():
            print(f"   {part}: {count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
        if total_passed + len(all_failed) == 0:
            print("No test ran: that is an error.")
        if parts:
            folder = os.path.dirname(next(a for a in arguments if not a.startswith("--")))
            with open(os.path.join(folder, "summary.json"), "w", encoding="utf-8") as out:
                json.dump({"total": totals, "parts": parts,
                           "failed": [{"part": p, "test": n} for p, n, _ in all_failed],
                           "skipped": [{"part": p, "test": n, "reason": r} for p, n, r in all_skipped]}, out, indent=1)
        print(f"{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped")
    return 0 if total_passed > 0 and not all_failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
