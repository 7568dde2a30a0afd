// SPDX-License-Identifier: Apache-2.0
// blk: a guest's disk, compared with the same requests on the same file by io_uring alone. On both
// sides the clock runs from just before the requests are ordered until their sender has noted the
// end of the last one (for ours, until the guest has noted it in its memory).
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "bench/co_process.h"
#include "bench/load_guest.h"
#include "bench/scenario.h"
#include "vmm/base/fd.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

constexpr const char* kScenario = "blk";
constexpr std::uint64_t kDiskBytes = 512ULL << 20;
constexpr const char* kMemory = "256M";
constexpr const char* kRegion = "32M";

struct Case {
    const char* name;
    bool write;
    bool random;
    std::uint64_t size;
    unsigned depth;
    unsigned batch;  ///< completions that the guest waits for at once
    unsigned count;
};
constexpr Case kCases[] = {
    {"read 1M, 4 in flight", false, false, 1 << 20, 4, 1, 512},
    {"write 1M, 4 in flight", true, false, 1 << 20, 4, 1, 512},
    {"read 1M, one by one", false, false, 1 << 20, 1, 1, 256},
    {"read 4K random, 32 in flight, by 16", false, true, 4096, 32, 16, 16384},
    {"read 4K random, 32 in flight", false, true, 4096, 32, 1, 16384},
    {"write 4K random, 32 in flight, by 16", true, true, 4096, 32, 16, 16384},
};

// Fills the disk with random bytes and drops them from the page cache, so that nothing compresses
// them and none is a hole.
Status fill(const std::string& path) {
    const UniqueFd file = TRY(open_file(path, O_RDWR | O_CREAT | O_TRUNC, 0600));
    std::vector<std::uint64_t> chunk((1 << 20) / sizeof(std::uint64_t));
    std::uint64_t random = 1;
    for (std::uint64_t at = 0; at < kDiskBytes; at += chunk.size() * sizeof random) {
        for (std::uint64_t& word : chunk) {
            random = random * 6364136223846793005ULL + 1442695040888963407ULL;
            word = random;
        }
        TRY(write_all(file.get(), std::as_bytes(std::span(chunk)), path));
    }
    if (::fdatasync(file.get()) != 0) {
        return fail(Error::system("fdatasync", path, errno));
    }
    (void)::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
    return {};
}

Sample sample_of(const Case& one, Side side, int run, const Parts& all) {
    const double us = part_of(all, "ns") / 1e3;
    const double count = one.count;
    Sample sample{kScenario, one.name, side, run, us, {}, {}};
    sample.figures = {{"mb_per_s", static_cast<double>(one.size) * count / us},
                      {"requests_per_s", count * 1e6 / us},
                      {"cpu_us_a_request", part_of(all, "cpu") / 1e3 / count}};
    if (side == Side::ours) {
        sample.figures.emplace_back("devices_cpu_us_a_request", part_of(all, "devices_cpu") / 1e3 / count);
        for (const char* what : {"exits", "our_exits", "halts", "injections", "notifications"}) {
            sample.figures.emplace_back(std::string(what) + "_a_request", part_of(all, what) / count);
        }
    }
    return sample;
}

Status one_case(const Options& options, Report& report, const Case& one, Process& floor, LoadProcess& ours) {
    return interleaved(options, [&](Side side, int run) -> Status {
        const auto seed = static_cast<std::uint64_t>(run + static_cast<int>(options.warm_up) + 1);
        if (side == Side::ours) {
            return report.add(
                sample_of(one, side, run,
                          TRY(ours.run({.kind = one.write ? ledger::LoadKind::disk_write : ledger::LoadKind::disk_read,
                                        .random = one.random ? 1U : 0U,
                                        .size = one.size,
                                        .count = one.count,
                                        .depth = one.depth,
                                        .batch = one.batch,
                                        .seed = seed}))));
        }
        TRY(floor.send(std::string(one.write ? "write " : "read ") + (one.random ? "random " : "seq ") +
                       std::to_string(one.size) + ' ' + std::to_string(one.depth) + ' ' + std::to_string(one.count) +
                       ' ' + std::to_string(seed) + '\n'));
        return report.add(sample_of(one, side, run, parse_parts(TRY(floor.line()), 1)));
    });
}

Status all_cases(const Options& options, Report& report, const std::string& disk) {
    TRY(fill(disk));
    Process floor = TRY(Process::start({options.raw_blk(), disk}));
    LoadProcess ours = TRY(LoadProcess::start(options.self, {.memory = kMemory, .region = kRegion, .disk = disk}));
    for (const Case& one : kCases) {
        TRY(one_case(options, report, one, floor, ours));
    }
    return {};
}

}  // namespace

Status bench_disk(const Options& options, Report& report) {
    const std::string disk = options.programs + "/bench.disk";
    Status done = all_cases(options, report, disk);
    (void)::unlink(disk.c_str());
    return done;
}

}  // namespace snapvm::bench
