#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of corpus/qcow2_header/: small good inputs of qcow2_header_fuzz.cc, and some
that are refused. Run by hand when the target changes; it needs qemu-img. Findings of the fuzzer are
added to the same folder under names of their own."""
import pathlib
import struct
import subprocess
import tempfile
import zlib

FOLDER = pathlib.Path(__file__).parent / "corpus" / "qcow2_header"
IMAGE, ZLIB, ZSTD = 0, 1, 2
CLUSTER_512 = 0
FEATURE_NAMES = struct.pack(">I", 0x6803F857)


def save(name, target, data):
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_bytes(bytes([target]) + data)


def qemu_image(name, options, then=None):
    """Keeps the used part of the first cluster of an image that qemu-img makes."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/image"
        (pathlib.Path(folder) / "base").write_bytes(bytes(1 << 20))
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "1M"], check=True, cwd=folder)
        if then:
            subprocess.run(["qemu-img", *then, path, "a"], check=True)
        data = pathlib.Path(path).read_bytes()
    return save(name, IMAGE, data[:1 << struct.unpack_from(">I", data, 20)[0]].rstrip(b"\0") + bytes(8))


def header(fields=(), tail=b"", size=512, length=112, bits=9):
    """A header of version 3 with 512-byte clusters, changed at (offset, format, value)."""
    data = bytearray(size)
    struct.pack_into(">4sIQIIQIIQQIIQ", data, 0,
                     b"QFI\xfb", 3, 0, 0, bits, 1 << 15, 0, 1, 3 << bits, 1 << bits, 1, 0, 0)
    struct.pack_into(">QQQII", data, 72, 0, 0, 0, 4, length)
    for offset, kind, value in fields:
        struct.pack_into(">" + kind, data, offset, value)
    return bytes(data) + tail


def entries(*words):
    return struct.pack(f">{len(words)}Q", *words)


qemu_image("version-2", "compat=0.10,backing_file=base,backing_fmt=raw")
qemu_image("version-3", "cluster_size=4k,refcount_bits=1")
qemu_image("overlay", "backing_file=base,backing_fmt=raw,lazy_refcounts=on")
qemu_image("subclusters", "extended_l2=on,compression_type=zstd")
qemu_image("bitmap", "compat=1.1", ["bitmap", "--add"])
save("entries", IMAGE, header(tail=entries(
    0, 1, 0x8000000000000600, 0x601, 0x4000000000000623, 0x7FFFFFFFFFFFFFFF, 0x600 | 1 << 60, 0x8000000000000000)))
save("subcluster-entries", IMAGE, header([(20, "I", 16), (40, "Q", 3 << 16), (48, "Q", 1 << 16), (72, "Q", 16)],
                                         entries(0x50000, 0xFFFE00000001, 0x50000, 3 | 1 << 32, 0, 1, 1, 0), size=1024))
save("length-104", IMAGE, header(length=104))
save("more-fields", IMAGE, header([(112, "Q", 0x5A5A)], length=120))
save("unknown-extension", IMAGE, header([(112, "I", 5), (116, "I", 13), (120, "Q", 7)]))
save("extension-fills-cluster", IMAGE, header([(112, "I", 5), (116, "I", 392)]))
save("extension-too-long", IMAGE, header([(112, "I", 5), (116, "I", 0xFFFFFFFF)]))
save("unknown-feature", IMAGE, header([(72, "Q", 1 << 9), (116, "I", 48), (120, "H", 9)]).replace(
    bytes(4) + struct.pack(">IH", 48, 9), FEATURE_NAMES + struct.pack(">IH", 48, 9)))
save("name-at-the-end", IMAGE, header([(8, "Q", 508), (16, "I", 4), (508, "4s", b"base")]))
save("name-with-zero", IMAGE, header([(8, "Q", 500), (16, "I", 4)]))
save("great-l1", IMAGE, header([(36, "I", 0xFFFFFFFF)]))
save("great-size", IMAGE, header([(24, "Q", 2**64 - 1)]))
save("offset-wraps", IMAGE, header([(48, "Q", 2**64 - 512)]))
save("encrypted", IMAGE, header([(32, "I", 2)]))
save("raw", IMAGE, b"not an image")
save("vmdk", IMAGE, b"KDMV" + bytes(508))


def deflate(data, window=12):
    packer = zlib.compressobj(9, zlib.DEFLATED, -window)
    return packer.compress(data) + packer.flush()


def zstd(data):
    """A frame of one raw block."""
    return b"\x28\xb5\x2f\xfd" + struct.pack("<BH", 0x60, len(data) - 256) + \
        struct.pack("<I", 1 | len(data) << 3)[:3] + data


def zstd_run(byte, count):
    """A frame that is one byte, repeated."""
    return b"\x28\xb5\x2f\xfd" + struct.pack("<BI", 0xA0, count) + struct.pack("<I", 3 | count << 3)[:3] + byte


TEXT = b"".join(b"%d " % i for i in range(200))[:512]
for target, name, pack in ((ZLIB, "zlib", deflate), (ZSTD, "zstd", zstd)):
    packed = pack(TEXT)
    save(f"{name}-good", target, bytes([CLUSTER_512]) + packed)
    save(f"{name}-padded", target, bytes([CLUSTER_512]) + packed + bytes(300))
    save(f"{name}-cut", target, bytes([CLUSTER_512]) + packed[:-1])
    save(f"{name}-too-little", target, bytes([1]) + packed)
save("zlib-bomb", ZLIB, bytes([CLUSTER_512]) + deflate(bytes(1 << 20)))
save("zlib-window-15", ZLIB, bytes([7]) + deflate(TEXT * 128, 15))
save("zstd-run", ZSTD, bytes([CLUSTER_512]) + zstd_run(b"a", 512))
save("zstd-bomb", ZSTD, bytes([CLUSTER_512]) + zstd_run(b"a", 128 << 10))
save("zstd-great-window", ZSTD, bytes([CLUSTER_512]) + b"\x28\xb5\x2f\xfd\x00\xa0" + zstd_run(b"a", 512)[9:])
