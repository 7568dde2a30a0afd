#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws what snapvm-bench measured: for every case the distribution of each side, ours beside the
floor.

plot.py SAMPLES.jsonl [PICTURE.png]     (default: the samples' name with .png)

One panel a case, all samples shown: the curve says which share of the runs was at most so long. A
target, where there is one, is a dashed line. Needs matplotlib (Debian: python3-matplotlib).
"""
import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = {"floor": "#7f8c8d", "ours": "#c0392b"}
LABELS = {"floor": "floor (raw system calls)", "ours": "snapvm"}


def percentile(values, percent):
    """By nearest rank, as the table has it."""
    ordered = sorted(values)
    return ordered[max(1, -(-len(ordered) * percent // 100)) - 1]


def target(scenario, case, floor):
    """What the project aims at, in ms (p50), and in words."""
    if scenario == "boot":
        return percentile(floor, 50) + 2, "floor + 2 ms"
    if scenario == "restore":
        return 2 * percentile(floor, 50), "2 × floor"
    if scenario == "pause" and " live" in case:
        return 4 * percentile(floor, 50), "4 × floor"
    if scenario == "blk" and " 1M" in case:
        return percentile(floor, 50) / 0.85, "floor / 0.85"
    if scenario == "balloon":
        return ((2 * percentile(floor, 50), "2 × floor") if case.startswith("return")
                else (percentile(floor, 50) / 5, "a fifth"))
    if scenario == "restore-after-snapshot" and "cold" not in case:
        return 4, "4 ms"
    return None, None


def read(path):
    host, cases, tracked = {}, {}, {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            if record["record"] == "host":
                host = record
            elif record["record"] == "sample" and record["scenario"] == "trackers":
                figures = record["figures"]
                line = (record["case"].rsplit(" ", 1)[1], figures["wanted_pages_per_s"])
                tracked.setdefault(line, {}).setdefault(figures["memory_mib"], []).append(record)
            elif record["record"] == "sample":
                sides = cases.setdefault((record["scenario"], record["case"]), {})
                sides.setdefault(record["side"], []).append(record["us"] / 1000)
    return host, cases, tracked


def vcpu_us_a_page(record):
    figures = record["figures"]
    return figures["during_cpu"] * 1e4 / max(figures["during"], 1)


def draw_trackers(axes, tracked, title, value):
    """One line a tracker and rate: the p50 of `value` over the guest's size."""
    for tracker, rate in sorted(tracked):
        sizes = sorted(tracked[tracker, rate])
        heights = [percentile([value(record) for record in tracked[tracker, rate][size]], 50) for size in sizes]
        axes.plot(sizes, heights, marker="o", markersize=4, linewidth=1.4,
                  color={"log": "#2980b9", "ring": "#c0392b"}[tracker],
                  linestyle=["-", "--", ":"][sorted({r for _, r in tracked}).index(rate) % 3],
                  label=f"{tracker}, " + (f"{rate / 1000:.0f}k pages/s" if rate else "full speed"))
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size / 1024:g} GiB" for size in sizes])
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(True, color="#ecf0f1")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncol=3, frameon=False)


def draw(axes, scenario, case, sides):
    for side in ("floor", "ours"):
        values = sorted(sides.get(side, []))
        if not values:
            continue
        count = len(values)
        shares = [(i + 1) * 100 / count for i in range(count)]
        middle = percentile(values, 50)
        axes.step([values[0]] + values, [0] + shares, where="post", color=COLOURS[side], linewidth=1.6)
        axes.plot(values, shares, ".", color=COLOURS[side], markersize=5, alpha=0.8)
        axes.plot([middle], [50], "o", color=COLOURS[side], markersize=7, markeredgecolor="white", zorder=5,
                  label=f"{'snapvm' if side == 'ours' else 'floor'}  "
                        f"p50 {middle:.2f} ms, p90 {percentile(values, 90):.2f}")
    everything = [value for values in sides.values() for value in values]
    right = max(percentile(values, 90) for values in sides.values())
    if "floor" in sides:
        limit, words = target(scenario, case, sides["floor"])
        if limit is not None:
            axes.axvline(limit, color="#2c3e50", linestyle="--", linewidth=1)
            axes.text(limit, 3, f" {words}", fontsize=7.5, color="#2c3e50", rotation=90, va="bottom", ha="right")
            right = max(right, limit)
    axes.set_xlim(0, right * 1.12)
    beyond = sum(value > right * 1.12 for value in everything)
    if beyond:
        axes.text(0.985, 0.5, f"{beyond} beyond,\nmax {max(everything):.1f} ms →",
                  transform=axes.transAxes, ha="right", fontsize=7.5)
    axes.set_ylim(0, 104)
    axes.set_title(f"{scenario}: {case} (ms)", fontsize=10, loc="left")
    axes.grid(True, color="#ecf0f1")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    # The legend is below the panel, where it covers no curve.
    axes.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncol=2, frameon=False,
                handletextpad=0.3, columnspacing=1.2)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    source = pathlib.Path(sys.argv[1])
    picture = pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else source.with_suffix(".png")
    host, cases, tracked = read(source)
    if not cases and not tracked:
        sys.exit(f"{source}: no samples")
    count = len(cases) + (2 if tracked else 0)
    columns = min(3, count) if count != 4 else 2
    rows = -(-count // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(5.2 * columns, 3.1 * rows + 0.6), squeeze=False)
    flat = [axes for row in panels for axes in row]
    for axes, ((scenario, case), sides) in zip(flat, cases.items()):
        draw(axes, scenario, case, sides)
        axes.set_ylabel("runs at most so long, %" if axes in panels[:, 0] else "")
    if tracked:
        draw_trackers(flat[len(cases)], tracked, "trackers: a harvest, 100 ms after the last (ms, p50)",
                      lambda record: record["us"] / 1000)
        draw_trackers(flat[len(cases) + 1], tracked, "trackers: vCPU time a page written while tracked (µs, p50)",
                      vcpu_us_a_page)
    for axes in flat[count:]:
        axes.set_visible(False)
    facts = host.get("host", {})
    runs = max([len(values) for sides in cases.values() for values in sides.values()]
               + [len(records) for sizes in tracked.values() for records in sizes.values()])
    height = figure.get_figheight()
    figure.text(0.01, 1 - 0.15 / height,
                "snapvm beside its floor (the same machine by raw system calls, in the same run)",
                fontsize=13, va="top")
    figure.text(0.01, 1 - 0.42 / height,
                f"{facts.get('cpu', '?')}, {facts.get('cores', '?')} cores, KVM: {facts.get('kvm', '?')}, "
                f"Linux {facts.get('kernel', '?')}; "
                f"commit {host.get('commit', '?')[:12]}; n = {runs} a side, not pinned",
                fontsize=8, color="#555555", va="top")
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.6 / height))
    figure.savefig(picture, dpi=120)
    print(f"picture: {picture}")


if __name__ == "__main__":
    main()
