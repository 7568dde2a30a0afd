#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A second reader of snapshot areas, written from snapshot/format/FORMAT.md alone, with nothing of
the product in it.

Reads an area, makes every check of "What is checked", prints what it found as JSON; with --compare
FILE holds that against `snapvm inspect --json`. With --verdicts FILE... prints a line for each
area: "good", or what is wrong.
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
WITH_DATA = {"common", "shared", "swapped"}
KINDS = {1: "metadata", 2: "start", 3: "entries", 4: "plan", 5: "state", 6: "disks", 7: "working-set", 8: "data"}
PER_BLOCK = {"entries", "data"}
PAGE = 4096
HUGE = 2 << 20


class Refused(Exception):
    pass


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def must(condition, what):
    if not condition:
        raise Refused(what)


class Fields:
    """Takes fields from the front of some bytes."""

    def __init__(self, data, name):
        self.data, self.at, self.name = data, 0, name

    def bytes(self, size):
        must(size <= len(self.data) - self.at, f"{self.name} is too short")
        self.at += size
        return self.data[self.at - size:self.at]

    def number(self, size):
        return int.from_bytes(self.bytes(size), "little")

    def reserved(self, size):
        must(not any(self.bytes(size)), f"{self.name}: reserved bytes")

    def flag(self):
        value = self.number(1)
        must(value <= 1, f"{self.name}: a flag is {value}")
        return value == 1

    def text(self):
        text = self.bytes(self.number(4))
        must(b"\0" not in text, f"{self.name}: a text with a NUL")
        return text

    def end(self):
        must(self.at == len(self.data), f"{self.name}: bytes behind its end")


def read_superblock(block, index):
    where = f"superblock {index}"
    must(block[:8] == b"snapvm\x1a\n", f"{where}: no magic")
    major, minor, size = struct.unpack_from("<HHI", block, 8)
    must((major, minor, size) == (1, 0, 4096), f"{where}: version {major}.{minor}")
    must(struct.unpack_from("<I", block, 508)[0] == crc32c(block[:508]), f"{where}: checksum")
    must(not any(block[120:508]), f"{where}: reserved bytes")
    area, sequence = struct.unpack_from("<QQ", block, 16)
    state, slots, slot, cpus, offset, length, memory, created, count, table = struct.unpack_from(
        "<IIIIQQQQII", block, 64)
    must(state in (1, 2) and slots in (1, 2) and cpus >= 1, f"{where}: state, slots or vCPUs")
    must(slot == (index if slots == 2 else 0), f"{where}: slot {slot}")
    must(area % PAGE == offset % PAGE == length % PAGE == 0, f"{where}: places that are not pages")
    must(8192 <= offset <= area and length <= area - offset, f"{where}: a slot outside of the area")
    must(state == 1 or sequence > 0, f"{where}: complete, with sequence number 0")
    must(state == 2 or count == 0, f"{where}: sections while writing")
    sb = {"state": {1: "writing", 2: "complete"}[state], "sequence": sequence,
          "machine_id": str(uuid.UUID(bytes=block[32:48])), "snapshot_id": str(uuid.UUID(bytes=block[48:64])),
          "area_bytes": area, "slots": slots, "slot": slot, "slot_offset": offset, "slot_bytes": length,
          "cpus": cpus, "memory_bytes": memory, "created_us": created, "sections": []}
    return sb, count, table == crc32c(block[512:4096])


def read_table(sb, count, block):
    must(count <= 89, f"{count} sections")
    for i in range(count):
        kind, block_id, at, capacity, used, crc, zero = struct.unpack_from("<IIQQQII", block, 512 + 40 * i)
        must(zero == 0, "reserved bytes in the table")
        must(kind in KINDS, f"section of kind {kind}")
        section = {"kind": KINDS[kind], "offset": at, "capacity": capacity, "length": used, "crc32c": crc}
        must((KINDS[kind] in PER_BLOCK) == (block_id != 0), f"block {block_id} of section {KINDS[kind]}")
        if block_id:
            section["block"] = block_id
        must(at % PAGE == capacity % PAGE == 0 and used <= capacity, f"room of section {KINDS[kind]}")
        must(used > 0 or crc == 0, f"section {KINDS[kind]} is empty and has a CRC")
        sb["sections"].append(section)
    must(not any(block[512 + 40 * count:4096]), "reserved bytes behind the table")
    free_from = sb["slot_offset"]
    for section in sorted(sb["sections"], key=lambda s: s["offset"]):
        must(section["offset"] >= free_from, f"section {section['kind']} over another or before the slot")
        free_from = section["offset"] + section["capacity"]
    must(free_from <= sb["slot_offset"] + sb["slot_bytes"], "a section behind the slot")
    kinds = [section["kind"] for section in sb["sections"]]
    for kind in KINDS.values():
        must(kind in PER_BLOCK or kinds.count(kind) == 1, f"{kinds.count(kind)} sections {kind}")
    entries, data = ([s for s in sb["sections"] if s["kind"] == kind] for kind in ("entries", "data"))
    must(1 <= len(data) <= 32 and len(data) == len(entries), "sections of the blocks")
    must(len({s["block"] for s in data}) == len(data), "a block twice")
    for e, d in zip(entries, data):
        must(e["block"] == d["block"] and d["length"] > 0 and d["length"] % PAGE == 0 and d["crc32c"] == 0
             and e["length"] == d["length"] // PAGE * 8, f"entries and data of block {d['block']}")
    must(sum(d["length"] for d in data) == sb["memory_bytes"], "bytes of memory")
    must(next(s for s in sb["sections"] if s["kind"] == "working-set")["length"] == 0, "a working set")


def choose(found, blocks):
    """Returns the index of the superblock that counts. Reads the tables of the complete ones."""
    superblocks = [sb for sb, _, _ in found]
    must(all(superblocks[0][key] == superblocks[1][key] for key in ("area_bytes", "slots")), "two areas")
    complete = [i for i in (0, 1) if superblocks[i]["state"] == "complete"]
    must(not complete or superblocks[0]["sequence"] != superblocks[1]["sequence"], "equal sequence numbers")
    newest = max((0, 1), key=lambda i: superblocks[i]["sequence"])
    if superblocks[0]["slots"] == 2:
        must(complete, "incomplete")
        newest = max(complete, key=lambda i: superblocks[i]["sequence"])
    must(newest in complete, "incomplete")
    for i in (0, 1):
        sb, count, table_is_right = found[i]
        try:
            must(table_is_right or (sb["slots"] == 2 and i not in complete), f"superblock {i}: table checksum")
            if i in complete:
                read_table(sb, count, blocks[i])
        except Refused as error:
            if sb["slots"] == 1 or i == newest:
                raise
            print(f"second reader: the older snapshot is lost: {error}", file=sys.stderr)
    return newest


def read_config(data):
    fields = Fields(data, "configuration")
    version = fields.number(2)
    must(version in (2, 3), "version of the configuration")
    memory, cpus, pages, boot = (fields.number(size) for size in (8, 4, 1, 1))
    must(HUGE <= memory <= 1 << 40 and memory % HUGE == 0 and 1 <= cpus <= 64, "memory or vCPUs")
    must(pages <= 2 and boot <= 2, "page policy or boot protocol")
    machine = fields.bytes(16)
    texts = [fields.text()]
    initrds = fields.number(4)
    must(initrds <= 16, "initrds")
    texts += [fields.text() for _ in range(initrds)]
    command_line = fields.text()
    must(all(len(text) <= 4096 for text in texts) and len(command_line) < 4096, "a text is too long")
    owners = {(1, 0), *((2, cpu) for cpu in range(cpus)), *((kind, 0) for kind in range(32, 39))}
    ids, places = [], []
    disks = fields.number(4)
    for i in range(disks):
        ids.append(fields.text())
        places.append(fields.text())
        fields.flag()
        must(version == 2 or fields.number(1) & 0x7F in (1, 2), "format of a disk")
        owners.add((64, i))
    nets = fields.number(4)
    for i in range(nets):
        ids.append(fields.text())
        places.append(fields.text())
        mac = fields.bytes(6)
        must(any(mac) and mac[0] & 1 == 0, "MAC")
        owners.add((65, i))
    for text in ids:
        must(1 <= len(text) <= 20 and all(0x21 <= c <= 0x7E for c in text), f"id {text}")
    must(len(set(ids)) == len(ids), "an id twice")
    if fields.flag():
        must(3 <= fields.number(4) < 0xFFFFFFFF, "CID")
        places.append(fields.text())
        owners.add((66, 0))
    if fields.flag():
        balloon = fields.number(8)
        must(balloon % PAGE == 0 and balloon <= memory, "balloon")
        owners.add((67, 0))
    for kind in (68, 69):
        if fields.flag():
            owners.add((kind, 0))
    fields.end()
    must(all(1 <= len(text) <= 4096 for text in places), "a path")
    must(len([owner for owner in owners if owner[0] >= 64]) <= 16, "virtio devices")
    low = min(memory, 3 << 30)
    blocks = [(1, 0, low)] + ([(2, 4 << 30, memory - low)] if memory > low else [])
    blocks += [(16, 0xE0000000, 64 << 10), (32, 0xE0010000, PAGE)]
    return blocks, cpus, str(uuid.UUID(bytes=machine)), owners


def read_start(data, sb):
    fields = Fields(data, "start")
    count = fields.number(4)
    fields.reserved(4)
    blocks = []
    for _ in range(count):
        block_id = fields.number(4)
        fields.reserved(4)
        blocks.append((block_id, fields.number(8), fields.number(8)))
    total = fields.number(8)
    wanted, cpus, machine, owners = read_config(fields.bytes(fields.number(4)))
    fields.end()
    must(blocks == wanted, "blocks of start and configuration")
    must(total == sum(size for _, _, size in blocks), "sum of the blocks")
    must(cpus == sb["cpus"] and machine == sb["machine_id"], "vCPUs or machine id")
    table = [(s["block"], s["length"]) for s in sb["sections"] if s["kind"] == "data"]
    must(table == [(block_id, size) for block_id, _, size in blocks], "blocks of start and table")
    return blocks, owners


def read_plan(data, blocks):
    fields = Fields(data, "plan")
    count = fields.number(4)
    must(count <= 64, "runs of the plan")
    fields.reserved(4)
    runs = []
    for _ in range(count):
        block_id = fields.number(4)
        fields.reserved(4)
        first, length = fields.number(8), fields.number(8)
        place = {b: (address, size) for b, address, size in blocks}.get(block_id)
        must(place is not None and place[0] % HUGE == 0 and length > 0, "block of a run")
        must(first % 512 == length % 512 == 0 and (first + length) * PAGE <= place[1], "place of a run")
        must(all(r["block"] != block_id or r["first"] >= first + length or first >= r["first"] + r["count"]
                 for r in runs), "two runs overlap")
        runs.append({"block": block_id, "first": first, "count": length})
    fields.end()
    return runs


def read_state(data, owners):
    fields = Fields(data, "state")
    count = fields.number(4)
    fields.reserved(4)
    records = []
    for _ in range(count):
        header = fields.bytes(12)
        kind, version, instance, length = struct.unpack("<HHII", header)
        crc = fields.number(4)
        must(crc32c(header + fields.bytes(length)) == crc, f"record {kind}: checksum")
        records.append({"kind": kind, "version": version, "instance": instance, "length": length, "crc32c": crc})
    fields.end()
    found = [(record["kind"], record["instance"]) for record in records]
    must(sorted(found) == sorted(owners), f"records {sorted(set(found) ^ owners)} are missing, double or too many")
    return records


def read_pages(get, named, blocks, plan):
    """Checks all entries and all data. Returns the blocks with their page classes counted."""
    pages = []  # of all blocks in their order: class, number in the block, entry, contents
    out = []
    for block_id, address, size in blocks:
        entries, data = get(named[("entries", block_id)]), get(named[("data", block_id)])
        counts = dict.fromkeys(CLASSES, 0)
        for page in range(size // PAGE):
            word = struct.unpack_from("<Q", entries, 8 * page)[0]
            must(word & 0xFF < len(CLASSES), f"block {block_id} page {page}: class {word & 0xFF}")
            name = CLASSES[word & 0xFF]
            counts[name] += 1
            content = data[PAGE * page:PAGE * page + PAGE]
            where = f"block {block_id} page {page}"
            if name in ("common", "swapped"):
                must(word >> 8 & 0xFFFFFF == 0, f"{where}: reserved bits")
                must(crc32c(struct.pack("<QQ", block_id, page) + content) == word >> 32, f"{where}: checksum")
            elif name == "shared":
                must(word >> 56 == 0 and word >> 8 & 0xFF == 0, f"{where}: reserved bits")
                other = word >> 16 & (1 << 40) - 1
                must(other < len(pages) and pages[other][0] in ("common", "swapped"), f"{where}: names {other}")
                must(pages[other][1] == content, f"{where}: differs from page {other}")
            else:
                must(word >> 8 == 0 and not any(content), f"{where}: reserved bits, or not zeros")
            in_plan = any(r["block"] == block_id and r["first"] <= page < r["first"] + r["count"] for r in plan)
            must(not in_plan or name not in WITH_DATA, f"{where}: in the plan, with data")
            pages.append((name, content if name in WITH_DATA else b""))
        out.append({"id": block_id, "base": address, "bytes": size, "pages": counts})
    return out


def read_snapshot(file, base, sb):
    def get(section):
        file.seek(base + section["offset"])
        return file.read(section["length"])

    named = {}
    for section in sb["sections"]:
        named[(section["kind"], section.get("block", 0))] = section
        if section["kind"] != "data":
            must(crc32c(get(section)) == section["crc32c"], f"section {section['kind']}: checksum")
    must(named[("disks", 0)]["length"] == 0, "disks")
    blocks, owners = read_start(get(named[("start", 0)]), sb)
    plan = read_plan(get(named[("plan", 0)]), blocks)
    records = read_state(get(named[("state", 0)]), owners)
    return {"blocks": read_pages(get, named, blocks, plan), "plan": plan, "records": records,
            "metadata": get(named[("metadata", 0)]).decode(errors="replace")}


def read_area(text):
    path, _, offset = text.partition("@")
    base = int(offset or 0)
    with open(path, "rb") as file:
        file.seek(base)
        blocks = [file.read(4096) for _ in range(2)]
        found = [read_superblock(blocks[i], i) for i in range(2)]
        chosen = choose(found, blocks)
        sb = found[chosen][0]
        file.seek(0, 2)
        must(file.tell() >= base + sb["area_bytes"], "truncated")
        found = {"chosen_superblock": chosen, "superblocks": [one for one, _, _ in found]}
        return found | read_snapshot(file, base, sb)


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


def verdict(area):
    try:
        read_area(area)
    except Refused as error:
        return str(error)
    return "good"


def main():
    if sys.argv[1] == "--verdicts":
        for area in sys.argv[2:]:
            print(verdict(area))
        return
    try:
        found = read_area(sys.argv[1])
        if len(sys.argv) > 3 and sys.argv[2] == "--compare":
            with open(sys.argv[3], encoding="utf-8") as report:
                agrees(found, json.load(report), "area")
        else:
            print(json.dumps(found))
    except Refused as error:
        sys.exit(f"second reader: {error}")


main()
