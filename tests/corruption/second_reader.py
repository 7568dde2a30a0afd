#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A second reader of snapshot areas, written from snapshot/format/FORMAT.md alone, with nothing of
the product in it.

Reads an area, checks every checksum, prints what it found as JSON; with --compare FILE holds that
against `snapvm inspect --json`.
"""
import json
import struct
import sys
import uuid

TABLE = []
for n in range(256):
    for _ in range(8):
        n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
    TABLE.append(n)
CLASSES = ["absent", "zero", "common", "shared", "balloon", "free", "swapped"]
KINDS = {1: "metadata", 2: "start", 3: "entries", 4: "plan", 5: "state", 6: "disks", 7: "working-set", 8: "data"}


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def must(condition, what):
    if not condition:
        sys.exit(f"second reader: {what}")


def read_superblock(block, index):
    must(block[:8] == b"snapvm\x1a\n", f"superblock {index}: no magic")
    major, minor, size = struct.unpack_from("<HHI", block, 8)
    must((major, minor, size) == (1, 0, 4096), f"superblock {index}: version {major}.{minor}")
    must(struct.unpack_from("<I", block, 508)[0] == crc32c(block[:508]), f"superblock {index}: checksum")
    must(not any(block[120:508]), f"superblock {index}: reserved bytes")
    area, sequence = struct.unpack_from("<QQ", block, 16)
    state, slots, slot, cpus, offset, length, memory, created, count, table = struct.unpack_from(
        "<IIIIQQQQII", block, 64)
    sb = {"state": {1: "writing", 2: "complete"}[state], "sequence": sequence,
          "machine_id": str(uuid.UUID(bytes=block[32:48])), "snapshot_id": str(uuid.UUID(bytes=block[48:64])),
          "area_bytes": area, "slots": slots, "slot": slot, "slot_offset": offset, "slot_bytes": length,
          "cpus": cpus, "memory_bytes": memory, "created_us": created, "sections": []}
    sb_table_ok = table == crc32c(block[512:4096])
    if state == 2:
        must(sb_table_ok, f"superblock {index}: table checksum")
        for i in range(count):
            kind, block_id, at, capacity, used, crc, zero = struct.unpack_from("<IIQQQII", block, 512 + 40 * i)
            must(zero == 0, "reserved bytes in the table")
            section = {"kind": KINDS[kind], "offset": at, "capacity": capacity, "length": used, "crc32c": crc}
            if block_id:
                section["block"] = block_id
            sb["sections"].append(section)
        must(not any(block[512 + 40 * count:4096]), "reserved bytes behind the table")
    return sb, sb_table_ok


def choose(superblocks):
    by_sequence = sorted((0, 1), key=lambda i: superblocks[i][0]["sequence"], reverse=True)
    if superblocks[0][0]["slots"] == 1:
        must(superblocks[by_sequence[0]][0]["state"] == "complete", "incomplete")
        must(superblocks[0][1] and superblocks[1][1], "table checksum of the other superblock")
        return by_sequence[0]
    complete = [i for i in by_sequence if superblocks[i][0]["state"] == "complete"]
    must(complete, "incomplete")
    return complete[0]


def read_snapshot(file, base, sb):
    def get(section):
        file.seek(base + section["offset"])
        return file.read(section["length"])

    named = {}
    for section in sb["sections"]:
        named[(section["kind"], section.get("block", 0))] = section
        if section["kind"] != "data":
            must(crc32c(get(section)) == section["crc32c"], f"section {section['kind']}: checksum")
    start = get(named[("start", 0)])
    count, _ = struct.unpack_from("<II", start, 0)
    blocks = []
    for i in range(count):
        block_id, _, address, size = struct.unpack_from("<IIQQ", start, 8 + 24 * i)
        entries = get(named[("entries", block_id)])
        data = get(named[("data", block_id)])
        counts = dict.fromkeys(CLASSES, 0)
        for page in range(size // 4096):
            word = struct.unpack_from("<Q", entries, 8 * page)[0]
            name = CLASSES[word & 0xFF]
            counts[name] += 1
            content = data[4096 * page:4096 * page + 4096]
            if name == "common":
                must(crc32c(struct.pack("<QQ", block_id, page) + content) == word >> 32,
                     f"block {block_id} page {page}: checksum")
            else:
                must(not any(content) and word >> 8 == 0, f"block {block_id} page {page}: not zeros")
        blocks.append({"id": block_id, "base": address, "bytes": size, "pages": counts})
    total, config_size = struct.unpack_from("<QI", start, 8 + 24 * count)
    must(total == sb["memory_bytes"] and len(start) == 20 + 24 * count + config_size, "start section")
    plan = get(named[("plan", 0)])
    runs = [struct.unpack_from("<IIQQ", plan, 8 + 24 * i) for i in range(struct.unpack_from("<I", plan)[0])]
    state = get(named[("state", 0)])
    records, at = [], 8
    for _ in range(struct.unpack_from("<I", state)[0]):
        kind, version, instance, length, crc = struct.unpack_from("<HHIII", state, at)
        must(crc32c(state[at:at + 12] + state[at + 16:at + 16 + length]) == crc, f"record {kind}: checksum")
        records.append({"kind": kind, "version": version, "instance": instance, "length": length, "crc32c": crc})
        at += 16 + length
    must(at == len(state), "bytes behind the last record")
    return {"blocks": blocks, "plan": [{"block": b, "first": f, "count": n} for b, _, f, n in runs], "records": records,
            "metadata": get(named[("metadata", 0)]).decode()}


def agrees(ours, theirs, where):
    """Everything that this reader found must be in the other's report, with the same value."""
    if isinstance(ours, dict):
        for key, value in ours.items():
            must(key in theirs, f"{where}.{key} is missing in the report")
            agrees(value, theirs[key], f"{where}.{key}")
    elif isinstance(ours, list):
        must(len(ours) == len(theirs), f"{where}: {len(ours)} and {len(theirs)} items")
        for i, value in enumerate(ours):
            agrees(value, theirs[i], f"{where}[{i}]")
    else:
        must(ours == theirs, f"{where}: {ours} here, {theirs} in the report")


def main():
    path, _, offset = sys.argv[1].partition("@")
    base = int(offset or 0)
    with open(path, "rb") as file:
        file.seek(base)
        superblocks = [read_superblock(file.read(4096), i) for i in range(2)]
        chosen = choose(superblocks)
        found = {"chosen_superblock": chosen, "superblocks": [sb for sb, _ in superblocks]}
        found |= read_snapshot(file, base, superblocks[chosen][0])
    if len(sys.argv) > 3 and sys.argv[2] == "--compare":
        with open(sys.argv[3], encoding="utf-8") as report:
            agrees(found, json.load(report), "area")
    else:
        print(json.dumps(found))


main()
