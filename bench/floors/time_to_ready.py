#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs raw_boot N times in fresh processes and prints how long each took from its start to READY.

time_to_ready.py N RAW_BOOT ELF [raw_boot's options…]
"""
import os
import statistics
import subprocess
import sys
import time

runs, command = int(sys.argv[1]), sys.argv[2:] + ["--times", "--until-ready"]
samples = []
for _ in range(runs):
    environment = dict(os.environ, RAW_BOOT_T0=str(time.monotonic_ns()))
    result = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    parts = dict(word.split("=") for word in result.stderr.split() if "=" in word)
    if "ready" not in parts:
        sys.exit(f"a run did not get to READY: {result.stderr}")
    samples.append({name: int(us) / 1000 for name, us in parts.items()})
for name in samples[0]:
    values = sorted(sample[name] for sample in samples)
    print(f"{name:8} ms: min {values[0]:.2f} p50 {statistics.median(values):.2f} p90 {values[len(values) * 9 // 10]:.2f} "
          f"max {values[-1]:.2f}")
print(f"{runs} runs")
