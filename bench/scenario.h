// SPDX-License-Identifier: Apache-2.0
// What a scenario gets, and where it leaves its figures.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <thread>
#include <vector>

#include "bench/report.h"
#include "vmm/base/error.h"

namespace snapvm::bench {

struct Options {
    unsigned runs = 20;
    unsigned warm_up = 2;  ///< pairs of runs before the first that counts
    std::vector<std::string> memory;  ///< empty: the scenario's default
    std::vector<std::string> working_sets = {"1M", "96M"};
    // For guests that run while a snapshot is made. Every combination is a case. Texts that the
    // product understands are passed to it unchanged.
    std::vector<std::string> hot = {"64M", "900M"};  ///< memory that the guest writes repeatedly
    std::vector<std::string> rates = {"0"};  ///< pages a second and vCPU; 0: full speed
    std::vector<std::string> cpus = {"1"};
    std::vector<std::string> dirty = {"log"};
    std::vector<std::string> modes = {"live"};
    std::vector<std::string> staging = {""};  ///< "": the product's default
    std::string when_diverging;  ///< "": the product's default
    std::string max_pause;  ///< "": the product's default
    std::string cache = "auto";
    std::string floor_rate = "1400M";  ///< limit of the floor's first round, in bytes a second
    std::string target_rate;  ///< limit of our writes to the target's disk, in bytes a second; "": none
    std::string area;  ///< a file, which every case creates anew, or a device
    std::string images;  ///< folder for disk images; "": that of the programs
    std::string programs;  ///< folder of the raw programs and of this one
    std::string self;
    std::string snapvm;

    [[nodiscard]] std::string raw_boot() const { return programs + "/raw_boot"; }
    [[nodiscard]] std::string raw_live() const { return programs + "/raw_live"; }
    [[nodiscard]] std::string raw_balloon() const { return programs + "/raw_balloon"; }
    [[nodiscard]] std::string raw_blk() const { return programs + "/raw_blk"; }
    [[nodiscard]] std::string raw_tap() const { return programs + "/raw_tap"; }
    [[nodiscard]] std::string raw_unix() const { return programs + "/raw_unix"; }
    [[nodiscard]] std::string raw_write() const { return programs + "/raw_write"; }
    [[nodiscard]] std::vector<std::string> memory_or(std::vector<std::string> liked) const {
        return memory.empty() ? liked : memory;
    }
    [[nodiscard]] std::string raw_restore() const { return programs + "/raw_restore"; }
};

/// Pause after each run, before the next one's clock starts: the kernel goes on tearing down a
/// machine after its descriptors are closed, and that time would count for the next run.
inline constexpr auto kSettle = std::chrono::milliseconds(20);

/// Calls `one(side, run)` for floor and ours in turn. Which goes first changes from run to run, so
/// that drift affects both. Warm-up runs have negative numbers. `settle` is the pause after each.
template <class One>
Status interleaved(const Options& options, One one, std::chrono::milliseconds settle = kSettle) {
    const int first = -static_cast<int>(options.warm_up);
    for (int run = first; run < static_cast<int>(options.runs); ++run) {
        const bool floor_first = run % 2 == 0;
        for (const Side side : {floor_first ? Side::floor : Side::ours, floor_first ? Side::ours : Side::floor}) {
            if (Status status = one(side, run); !status) {
                return status;
            }
            std::this_thread::sleep_for(settle);
        }
    }
    return {};
}

struct LiveGuest;
[[nodiscard]] bool is_device(const std::string& target);
/// Removes the target if it is a file. A device stays.
void remove_target(const std::string& target);
/// Creates an empty area if the target is a device. The device has to contain an area, or nothing
/// that is recognised. If the target is a file, removes it.
Status prepare_target(const Options& options, const LiveGuest& guest);
/// Returns a body for PUT /snapshot/create.
Result<nlohmann::json> snapshot_body(const Options& options, const std::string& mode, const std::string& staging);

Status bench_boot(const Options& options, Report& report);
Status bench_restore(const Options& options, Report& report);
Status bench_after_snapshot(const Options& options, Report& report);
Status bench_linux(const Options& options, Report& report);
Status bench_pause(const Options& options, Report& report);
Status bench_write(const Options& options, Report& report);
Status bench_scan(const Options& options, Report& report);
Status bench_trackers(const Options& options, Report& report);
Status bench_disk(const Options& options, Report& report);
Status bench_images(const Options& options, Report& report);
Status bench_balloon(const Options& options, Report& report);
Status bench_net(const Options& options, Report& report);
Status bench_stream(const Options& options, Report& report);

}  // namespace snapvm::bench
