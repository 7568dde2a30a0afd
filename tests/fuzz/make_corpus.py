#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of all folders of corpus/ but api_body and snapshot_reader: small good inputs,
from which the fuzzer departs. Run by hand when a format changes; findings of the fuzzer are added
to the same folders under names of their own."""
import gzip
import lzma
import pathlib
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"


def save(target, name, data):
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    (CORPUS / target / name).write_bytes(data)


def note(kind=18, name=b"Xen\0", value=0x200000):
    return struct.pack("<III", len(name), 4, kind) + name + bytes(-len(name) % 4) + struct.pack("<I", value)


def elf(loads, notes=b"", entry=0x200000, machine=62, elf_class=2):
    """loads: (physical address, bytes, size in memory)."""
    count = len(loads) + (1 if notes else 0)
    at = 64 + 56 * count
    programs, payload = b"", b""
    if notes:
        programs += struct.pack("<IIQQQQQQ", 4, 4, at, 0, 0, len(notes), 0, 4)
        payload += notes
    for address, data, size in loads:
        programs += struct.pack("<IIQQQQQQ", 1, 5, at + len(payload), address, address, len(data), size, 4096)
        payload += data
    ident = b"\x7fELF" + bytes([elf_class, 1, 1]) + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, entry, 64, 0, 0, 64, 56, count, 0, 0, 0)
    return header + programs + payload


save("elf", "pvh", elf([(0x200000, b"\xf4" * 16, 4096)], note()))
save("elf", "linux64", elf([(0x200000, b"\xf4" * 16, 4096)]))
save("elf", "second-note",
     elf([(0x200000, b"\xf4" * 16, 4096)], note(kind=1, name=b"GNU\0") + note(name=b"X\0") + note()))
save("elf", "segments",
     elf([(0x100000, b"a" * 8, 8), (0x101000, b"b" * 8, 4096), (0x300000, b"", 65536)], note(value=0x100000)))
save("elf", "overlap", elf([(0x200000, b"a" * 8, 4096), (0x200800, b"b" * 8, 16)]))
save("elf", "below-1m", elf([(0x7000, b"a" * 8, 16)], entry=0x7000))
save("elf", "firmware", elf([(0xE0000000, b"a" * 8, 16)], entry=0xE0000000))
save("elf", "wraps", elf([(2**64 - 16, b"a" * 8, 16)], entry=2**64 - 16))
save("elf", "i386", elf([(0x200000, b"a" * 8, 16)], machine=3, elf_class=1))


def bzimage(payload, sectors=1):
    """Documentation/arch/x86/boot.rst: setup_sects, boot_flag, header, version, loadflags,
    payload_offset, payload_length."""
    setup = bytearray((sectors + 1) * 512)
    setup[0x1F1] = sectors
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    struct.pack_into("<4sH", setup, 0x202, b"HdrS", 0x20F)
    setup[0x211] = 1
    struct.pack_into("<II", setup, 0x248, 8, len(payload))
    return bytes(setup) + bytes(8) + payload


small_elf = elf([(0x200000, b"\xf4" * 16, 4096)])
size_of_it = struct.pack("<I", len(small_elf))
# LZ4 data of literals only, and a zstd frame of one raw block, need no library here.
lz4_block = bytes([0xF0, len(small_elf) - 15]) + small_elf
packed = {
    "gzip": gzip.compress(small_elf, mtime=0),
    "xz": lzma.compress(small_elf, check=lzma.CHECK_CRC32) + size_of_it,
    "lz4": bytes([2, 0x21, 0x4C, 0x18]) + struct.pack("<I", len(lz4_block)) + lz4_block + size_of_it,
    "zstd": (bytes([0x28, 0xB5, 0x2F, 0xFD, 0x20, len(small_elf)]) +
             (1 | len(small_elf) << 3).to_bytes(3, "little") + small_elf + size_of_it),
}
for name, data in packed.items():
    save("bzimage", name, bzimage(data))
    save("bzimage", name + "-alone", data)
save("bzimage", "plain", bzimage(small_elf))


def rings(descriptors, heads, index=None, settings=0):
    """descriptors: (address, size, flags, next); the available ring names `heads`."""
    table = b"".join(struct.pack("<QIHH", *one) for one in descriptors)
    available = (struct.pack("<HH", 0, len(heads) if index is None else index) +
                 b"".join(struct.pack("<H", head) for head in heads))
    return bytes([settings]) + table + bytes(4096 - len(table)) + available


NEXT, WRITE, INDIRECT = 1, 2, 4
save("virtio_queue", "chain",
     rings([(0x4000, 16, NEXT, 1), (0x5000, 512, NEXT | WRITE, 2), (0x6000, 1, WRITE, 0)], [0]))
save("virtio_queue", "event-index", rings([(0x4000, 16, 0, 0)], [0, 0, 0], settings=1))
save("virtio_queue", "ring", rings([(0x4000, 16, NEXT, 1), (0x4000, 16, NEXT, 0)], [0]))
save("virtio_queue", "indirect", rings([(0x10, 16, INDIRECT, 0), (0x4000, 8, 0, 0)], [0]))
save("virtio_queue", "outside", rings([(2**64 - 8, 16, 0, 0)], [0]))
save("virtio_queue", "ahead", rings([], [], index=17))


def text(value):
    return struct.pack("<I", len(value)) + value


def config(memory=256 << 20, cpus=1, initrds=(), version=3, count=None, devices=bytes(12)):
    out = struct.pack("<HQIBB", version, memory, cpus, 0, 0) + bytes(range(16)) + text(b"builtin:ledger")
    out += struct.pack("<I", len(initrds) if count is None else count)
    return out + b"".join(text(path) for path in initrds) + text(b"ws=1M") + devices


def vcpu(cpuid=2, msrs=2, cpuid_count=None):
    out = struct.pack("<I", cpuid if cpuid_count is None else cpuid_count) + bytes(28 * cpuid)
    out += struct.pack("<I", 0) + bytes(18 * 8)                      # mp_state, regs
    out += bytes(8 * 22) + bytes(2 * 10) + bytes(8 * 8) + bytes(4 * 8)  # segments, tables, control registers, pdptrs
    out += struct.pack("<I", 4096) + bytes(4096)                     # xsave
    out += struct.pack("<II", 1, 0) + bytes(16 * 12)                 # xcrs
    out += bytes(8 * 7) + bytes(1024)                                # debug registers, LAPIC
    out += struct.pack("<I", msrs) + bytes(12 * msrs)
    return out + bytes(33) + struct.pack("<I", 2_000_000)            # events, TSC frequency


# The first byte chooses the decoder: a record's kind (vmm/state/state_record.h), or 0 for the
# configuration.
CONFIG, VCPU = 0, 2
SERIAL, IOAPIC, RESET, TEST_PORT, VMGENID, PVPANIC, GED = range(32, 39)
BLK, NET, VSOCK, BALLOON, RNG, CONSOLE = range(64, 70)


def record(kind, name, data):
    save("state_record", name, bytes([kind]) + data)


record(CONFIG, "config", config())
record(CONFIG, "config-initrds", config(5 << 30, 4, [b"/a", b"/b"]))
record(CONFIG, "config-version-2", config(version=2))
record(CONFIG, "config-newer", config(version=4))
record(CONFIG, "config-absurd-count", config(initrds=[b"x"] * 16, count=0xFFFFFFFF))
disks = struct.pack("<I", 1) + text(b"root") + text(b"/disk") + b"\0\1"
vsock = b"\1" + struct.pack("<I", 3) + text(b"/v")
record(CONFIG, "config-devices",
       config(devices=disks + struct.pack("<I", 0) + vsock + b"\1" + struct.pack("<Q", 1 << 20) + b"\1\1"))
record(VCPU, "vcpu", vcpu())
record(VCPU, "vcpu-absurd-count", vcpu(cpuid=0, cpuid_count=0xFFFFFFFF))
masked = struct.pack("<Q", 1 << 16)
record(IOAPIC, "ioapic", struct.pack("<BBI", 0x10, 0, 0) + masked * 24)
record(IOAPIC, "ioapic-in-service",
       struct.pack("<BBI", 0x11, 3, 1 << 9) + masked * 9 + struct.pack("<Q", 1 << 56 | 0xC039) + masked * 14)
record(SERIAL, "serial", struct.pack("<H5B3BBB", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
record(SERIAL, "serial-in-flight", struct.pack("<H5B3BBB", 12, 3, 1, 3, 8, 0xA5, 1, 0, 1, 0x77, 3) + b"abc")
record(RESET, "reset", b"\x02")
record(TEST_PORT, "test-port", struct.pack("<BIIQ", 1, 42, 7, 3))
record(VMGENID, "vmgenid", struct.pack("<Q", 2))
record(PVPANIC, "pvpanic", b"\x01")
record(GED, "ged", b"\x01\x01")


def virtio(queues, features=0, running=True, interrupt=0, generation=0):
    """The transport's registers; with a driver, whose queues of 8 are in use from an index that has
    wrapped around."""
    out = struct.pack("<IIQIIII", 0, 0, features | 1 << 32 if running else 0, 0, 15 if running else 0,
                      interrupt, generation)
    out += bytes([queues])
    for number in range(queues):
        at = 0x1000 + 0x3000 * number
        places = (8, 1, at, at + 0x1000, at + 0x2000, 0xFFFF, 0xFFFF, 0xFFFF) if running else (0,) * 8
        out += struct.pack("<HBQQQHHH", *places)
    return out


EVENT_INDEX = 1 << 29
blk = struct.pack("<QI", 2048, 512)  # the disk of tests/conformance/fake_host.h
record(BLK, "virtio-blk", virtio(1, running=False) + blk)
record(BLK, "virtio-blk-driven", virtio(1, EVENT_INDEX | 1 << 9, interrupt=1) + blk)
record(NET, "virtio-net", virtio(3, running=False) + struct.pack("<QB", 0, 0))
record(NET, "virtio-net-driven",
       virtio(3, 1 << 1 | 1 << 2 | 1 << 5 | 1 << 7 | 1 << 15 | 1 << 17 | 1 << 21) + struct.pack("<QB", 1 << 7, 1))
record(VSOCK, "virtio-vsock", virtio(3, running=False) + struct.pack("<I", 1 << 30))
record(VSOCK, "virtio-vsock-driven", virtio(3, 1) + struct.pack("<I", 0xFFFFFFFF))
record(BALLOON, "virtio-balloon", virtio(5, running=False) + struct.pack("<IIIIIBBH", 256, 0, 0, 1, 0, 0, 0, 0))
record(BALLOON, "virtio-balloon-driven",
       virtio(5, 0x3F, interrupt=2, generation=3) + struct.pack("<IIIIIBBHH", 256, 7, 2, 2, 0xAA, 1, 1, 3, 5))
record(RNG, "virtio-rng", virtio(1, running=False))
record(RNG, "virtio-rng-driven", virtio(1, EVENT_INDEX))
record(CONSOLE, "virtio-console", virtio(2, running=False) + struct.pack("<HHIQ", 80, 25, 0, 0))
record(CONSOLE, "virtio-console-driven",
       virtio(2, 1, interrupt=3) + struct.pack("<HHI", 132, 43, 5) + b"typed" + struct.pack("<Q", 3))


# virtio_blk_fuzz.cc takes a first byte of flags, then steps.
def descriptor(index, at, size, flags=0, following=0):
    return struct.pack("<BBIIBB", 1, index, at, size, flags, following)


def blk_header(index, kind, sector):
    return struct.pack("<BBIQ", 3, index, kind, sector)


def blk_request(index, kind, sector, at=0x10000, size=512, flags=1):
    return (blk_header(index, kind, sector) +
            descriptor(3 * index, 0x8000 + 16 * index, 16, 1, 3 * index + 1) +
            descriptor(3 * index + 1, at, size, flags, 3 * index + 2) +
            descriptor(3 * index + 2, 0xC000 + index, 1, 2) +
            bytes([2, 3 * index]))


NOTIFY = bytes([4])
save("virtio_blk", "read", bytes([0]) + blk_request(0, 0, 3, flags=3) + NOTIFY)
save("virtio_blk", "write-two", bytes([1]) + blk_request(0, 1, 3) + blk_request(1, 1, 2047) + NOTIFY)
save("virtio_blk", "unaligned", bytes([0]) + blk_request(0, 0, 1, at=0x10003, size=4096, flags=3) + NOTIFY)
save("virtio_blk", "read-only", bytes([2]) + blk_request(0, 1, 3) + NOTIFY)
save("virtio_blk", "discard", bytes([0]) + struct.pack("<BIQ", 0, 0x10000, 4) + struct.pack("<BIQ", 0, 0x10008, 8) +
     blk_request(0, 11, 0, size=16) + blk_request(1, 13, 0, size=16) + NOTIFY)
save("virtio_blk", "flush-get-id", bytes([0]) + blk_request(0, 4, 0) + blk_request(1, 8, 0, size=20, flags=3) + NOTIFY)
save("virtio_blk", "wraps", bytes([0]) + blk_request(0, 0, 2**64 - 1, flags=3) + NOTIFY)
save("virtio_blk", "ring", bytes([0]) + descriptor(0, 0x8000, 16, 1, 0) + bytes([2, 0]) + NOTIFY + bytes([5]) +
     blk_request(0, 0, 0, flags=3) + NOTIFY)
save("virtio_blk", "registers",
     bytes([0]) + struct.pack("<BBI", 6, 0x70 // 4, 128) + struct.pack("<BBI", 6, 0x44 // 4, 0) + NOTIFY)
# A move of tests/support/virtio_player.h is a byte, a queue and two numbers.
def moves(*list_of_moves):
    return b"".join(struct.pack("<BBIH", *one) for one in list_of_moves)


INFLATE, DEFLATE, STATISTICS, HINTS, REPORTS = range(5)
numbers = [(0, 0, 0x80, 0), (0, 0, 0x82, 4), (0, 0, 0xFFFFFFFF, 8), (0, 0, 0xE0010, 12)]
save("virtio_balloon", "inflate-deflate", moves(*numbers, (1, INFLATE, 0, 16), (1, DEFLATE, 0, 16), (6, 0, 7, 0)))
save("virtio_balloon", "own-rings",
     moves(*[(0, 0, page, 4 * page) for page in range(32)], (1, INFLATE, 0, 128), (1, REPORTS, 0, 4)))
save("virtio_balloon", "reports",
     moves((2, REPORTS, 0x8000, 0x3000), (2, REPORTS, 0x8001, 0x1FFF), (2, REPORTS, 0xE001000, 4096)))
save("virtio_balloon", "poison", moves((4, 0, 0x10C, 0xAA), (2, REPORTS, 0x8000, 0x3000)))
save("virtio_balloon", "statistics",
     moves((0, 0, 4, 0), (1, STATISTICS, 0, 20), (1, STATISTICS, 0, 10), (7, 0, 0, 0), (7, 0, 0, 0)))
save("virtio_balloon", "hints",
     moves((8, 0, 0, 0), (0, 0, 2, 0), (1, HINTS, 0, 4), (2, HINTS, 0x8000, 0x2000), (0, 0, 0, 0),
           (1, HINTS, 0, 4), (9, 0, 0, 0)))
save("virtio_balloon", "starts-over",
     moves((1, STATISTICS, 0, 20), (4, 0, 0x70, 0), (7, 0, 0, 0), (5, 0, 0xFFFFFFFF, 0), (1, INFLATE, 0, 64)))
INPUT, OUTPUT = range(2)
save("virtio_console", "typed", moves((2, INPUT, 0x2000, 16), (6, INPUT, 65, 40), (2, INPUT, 0x2001, 64)))
save("virtio_console", "output",
     moves((0, 0, 0x6F6C6C65, 0), (1, OUTPUT, 0, 4), (8, 0, 0, 2), (1, OUTPUT, 0, 300), (8, 0, 0, 400)))
save("virtio_console", "resized", moves((7, 0, 132, 43), (5, 0, 0, 0), (7, 0, 80, 25)))
save("virtio_console", "own-rings", moves((3, 0, 0x102, 9), (1, INPUT, 0, 64), (2, OUTPUT, 0x100, 64), (6, 0, 1, 8000)))
save("virtio_console", "starts-over",
     moves((8, 0, 0, 1), (1, OUTPUT, 0, 100), (6, 0, 1, 100), (4, 0, 0x70, 0), (5, 0, 1, 0), (8, 0, 0, 200)))
save("virtio_rng", "drawn", moves((2, 0, 0x2000, 64), (2, 0, 0x2004, 5000), (1, 0, 0, 8)))
save("virtio_rng", "event-index", moves((5, 0, 1 << 29, 0), (2, 0, 0x2000, 64), (2, 0, 0x2000, 64), (3, 0, 0x80, 5)))
save("virtio_rng", "outside", moves((2, 0, 0xFFFFFFF, 64), (2, 0, 0xFFFF, 64)))
# virtio_vsock_fuzz.cc takes the numbers of buffers and event buffers, then steps. A step is a
# number and its bytes, followed by a byte that says whether packets are received (even: yes).
def likely(op, port=1, flags=0, buf_alloc=255, fwd_cnt=0, size=0):
    return bytes([9, op, port, 1, flags, buf_alloc, fwd_cnt, size, 0])


def client(line):
    return bytes([4, 0, 5, len(line)]) + line + bytes([0])


start = bytes([32, 4])
save("virtio_vsock", "guest-connects",
     start + likely(1) + likely(5, size=200) + likely(6) + likely(7) + bytes([8, 0, 6, 0]))
save("virtio_vsock", "guest-shuts", start + likely(1) + likely(4, flags=2) + likely(4, flags=1) + likely(4, flags=3))
save("virtio_vsock", "client",
     start + client(b"CONNECT 1\n") + bytes([9, 2, 1, 0, 0, 255, 0, 0, 0, 5, 4]) + b"data" + bytes([0, 6, 0]))
save("virtio_vsock", "client-bad", start + client(b"CONNECT x\n") + client(b"CONNECT 1"))
save("virtio_vsock", "restored", start + likely(1) + bytes([7, 0, 2, 0]) + likely(5, size=1) + client(b"CONNECT 1\n"))
save("virtio_vsock", "raw",
     start + bytes([0, 44]) + bytes(44) + bytes([3, 0]) + bytes([0, 10]) + bytes(10) + bytes([0, 0]))
save("virtio_vsock", "ring", start + bytes([3, 200, 0, 1, 3, 255, 0]))
# virtio_net_fuzz.cc takes a byte of flags and the features, then steps.
def net(flags, *steps, features=0):
    return struct.pack("<BQ", flags, features) + b"".join(steps)


def net_in(size, header=bytes(12)):
    return struct.pack("<BH", 4, size) + header


def net_out(size, header=bytes(12), cut=12):
    return struct.pack("<BH", 11, size) + header + bytes([cut])


def net_buffers(count, size):
    return struct.pack("<BBH", 5, count, size)


KICK_IN, KICK_OUT = bytes([3, 0]), bytes([3, 1])
TSO = struct.pack("<BBHHHHH", 1, 1, 54, 1448, 34, 16, 0)
save("virtio_net", "in", net(1, net_buffers(4, 1536), KICK_IN, net_in(72), net_in(1600)))
save("virtio_net", "in-large", net(1, net_buffers(7, 1536), KICK_IN, net_in(9000, TSO), net_buffers(7, 1536), KICK_IN))
save("virtio_net", "in-plain", net(0, net_buffers(2, 100), KICK_IN, net_in(101), net_in(100), features=0x10000))
save("virtio_net", "in-tiny", net(1, net_buffers(3, 12), net_buffers(1, 11), net_in(40), KICK_IN))
save("virtio_net", "out", net(1, net_out(72), net_out(20000, TSO, 200), net_out(5), KICK_OUT))
save("virtio_net", "tap-fails",
     net(1, net_buffers(4, 1536), KICK_IN, bytes([8, 0]), net_out(72), KICK_OUT, bytes([8, 2]), bytes([8, 1]),
         net_out(72), KICK_OUT, bytes([8, 4]), net_in(72), KICK_OUT))
save("virtio_net", "commands",
     net(3, bytes([9]), bytes([6, 3, 0, 0, 0, 0]), bytes([6, 5, 0, 0x82, 0, 0]), bytes([6, 9, 9, 9, 9, 9])))
save("virtio_net", "ring",
     net(1, struct.pack("<BBBIIBB", 1, 1, 0, 0x40000, 64, 1, 0), bytes([2, 1, 0]), KICK_OUT, bytes([10]) + bytes(8)))
save("virtio_net", "restored",
     net(1, net_buffers(1, 1536), KICK_IN, net_in(3000, TSO), bytes([9]), net_buffers(4, 1536), KICK_IN))


# emulate_fuzz.cc takes fifteen bytes of code, kvm_regs, CR0, CR3, CR4, EFER, GDTR, CS.L, the
# privilege level, XCR0, then memory.
def emulated(code, rsi=0x1000, rax=7, cr0=1, cr3=0, memory=b""):
    regs = [0] * 18
    regs[0], regs[4] = rax, rsi
    regs[5] = rsi
    state = struct.pack("<18Q4Q", *regs, cr0, cr3, 0x750020, 0xD01)
    return code.ljust(15, b"\x90") + state + struct.pack("<QH6xBBQ", 0x100, 0xFF, 1, 0, 7) + memory


for name, code in {
    "popcnt": "f3480fb806", "cmpxchg16b": "f0480fc70e",
    "xsave": "480fae26", "xrstor": "480fae2e", "xsavec": "480fc726", "xrstors": "480fc71e",
    "int3": "cc", "int80": "cd80", "fwait": "9b", "stac": "0f01cb", "rdrand": "480fc7f0",
    "xgetbv": "0f01d0", "wrpkru": "0f01ef", "wrgsbase": "f3480faed8", "lsl": "480f03c6", "verw": "0f00ee",
}.items():
    save("emulate", name, emulated(bytes.fromhex(code), memory=bytes(0x1000 + 4096)))
tables = bytearray(0x6000)
for level in range(4):
    struct.pack_into("<Q", tables, 0x1000 * level + 8 * (1 if level == 3 else 0), 0x1000 * (level + 1) | 7)
save("emulate", "paging", emulated(bytes.fromhex("480fc70e"), cr0=0x80010001, memory=bytes(tables)))
