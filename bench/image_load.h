// SPDX-License-Identifier: Apache-2.0
// Disk images for the benchmark, and requests on them through the interface that a guest's disk
// uses.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/report.h"
#include "devices/disk/disk.h"
#include "vmm/base/error.h"

namespace snapvm::bench {

/// How a disk's bytes lie in its file.
struct ImageKind {
    DiskFormat format = DiskFormat::raw;
    std::uint32_t cluster_bits = 16;
    bool extended_l2 = false;
};

/// A series of requests of one size.
struct ImageLoad {
    enum class Order : std::uint8_t { sequential, random, stride };
    bool write = false;
    Order order = Order::random;
    std::uint64_t size = 4096;
    unsigned depth = 1;
    unsigned count = 0;
    std::uint64_t seed = 1;
    std::uint64_t stride = 0;    ///< from one request's place to the next one's, around the disk's end
    std::uint64_t first = 0;     ///< the first place, with `stride`
    bool flush = false;          ///< one flush at the end, inside the clock

    [[nodiscard]] std::uint64_t place(std::uint64_t n, std::uint64_t disk_bytes) const;
};

/// System calls on the host's files.
struct HostCalls {
    std::uint64_t calls = 0;
    std::uint64_t read_bytes = 0;
    std::uint64_t written_bytes = 0;

    [[nodiscard]] HostCalls since(const HostCalls& earlier) const {
        return {calls - earlier.calls, read_bytes - earlier.read_bytes, written_bytes - earlier.written_bytes};
    }
};

/// A disk whose calls are counted.
class CountedDisk {
public:
    /// Opens and starts it.
    static Result<CountedDisk> open(const std::string& path, DiskFormat format, bool read_only);
    [[nodiscard]] Disk& disk() const { return *disk_; }
    [[nodiscard]] const HostCalls& calls() const { return *calls_; }

private:
    std::unique_ptr<HostCalls> calls_;  // outlives the disk, whose calls it counts
    std::unique_ptr<Disk> disk_;
};

/// What a load has cost.
struct ImageCost {
    double us = 0;
    double cpu_us = 0;  ///< of all threads, with the kernel's part
    HostCalls calls;

    /// Returns the figures of a sample, each for one request or one byte of the guest's.
    [[nodiscard]] Parts figures(const ImageLoad& load) const;
};

/// Memory for the requests' data, aligned for O_DIRECT.
class LoadMemory {
public:
    static Result<LoadMemory> make(std::uint64_t bytes);
    [[nodiscard]] std::byte* at(std::uint64_t offset) const { return memory_.get() + offset; }

private:
    struct Unmap {
        std::uint64_t bytes = 0;
        void operator()(std::byte* memory) const { ::munmap(memory, bytes); }
    };
    explicit LoadMemory(std::unique_ptr<std::byte, Unmap> memory) : memory_(std::move(memory)) {}
    std::unique_ptr<std::byte, Unmap> memory_;
};

/// Returns what an image is like that snapvm makes by default.
[[nodiscard]] ImageKind default_image();
/// Makes a new image in place of what is at `path`, with no bytes of its own. `backing` is the
/// image behind it, or empty.
Status make_image(const std::string& path, const ImageKind& kind, std::uint64_t size, const std::string& backing = {},
                  DiskFormat backing_format = DiskFormat::raw);
/// Keeps `depth` requests in flight on one thread until all have ended.
Result<ImageCost> run_load(const CountedDisk& disk, const ImageLoad& load);
/// Writes each part of `part` bytes whose number leaves `rest` when divided by `divisor`, and
/// flushes.
Status fill_image(const std::string& path, DiskFormat format, std::uint64_t part = 1 << 16, unsigned divisor = 1,
                  unsigned rest = 0);

/// Returns how much memory of this process is resident (VmRSS), in bytes, without what its heap has
/// freed.
[[nodiscard]] std::uint64_t resident_bytes();

}  // namespace snapvm::bench
