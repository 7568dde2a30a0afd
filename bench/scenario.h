// SPDX-License-Identifier: Apache-2.0
// What a scenario gets and where it leaves its figures.
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
    unsigned warm_up = 2;  ///< pairs before the first that counts
    std::vector<std::string> memory;  ///< empty: what the scenario likes
    std::vector<std::string> working_sets = {"1M", "96M"};
    // Of guests that run while a snapshot is made. Every combination is a case. Texts that the product understands are passed to it as they are.
    std::vector<std::string> hot = {"64M", "900M"};  ///< written over and over
    std::vector<std::string> rates = {"0"};  ///< pages a second and vCPU; 0: as fast as it can
    std::vector<std::string> cpus = {"1"};
    std::vector<std::string> dirty = {"log"};
    std::vector<std::string> modes = {"live"};
    std::vector<std::string> staging = {""};  ///< "": the product's default
    std::string when_diverging;  ///< likewise
    std::string max_pause;  ///< likewise
    std::string cache = "auto";
    std::string floor_rate = "1400M";  ///< bytes a second of the floor's first round
    std::string target_rate;  ///< bytes a second that ours can write to the target's disk; "": all it can
    std::string area;  ///< a file, written anew for every case, or a device
    std::string programs;  ///< folder of raw_boot, raw_restore and this program
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

/// After each run, before the next one's clock: the kernel goes on taking a machine apart behind the back of whoever closed it, and that
/// would be counted to whoever comes next.
inline constexpr auto kSettle = std::chrono::milliseconds(20);

/// Calls `one(side, run)` for floor and ours in turn; which goes first changes from run to run, so that whatever drifts hits both. The
/// warm-up's runs have negative numbers.
template <class One>
Status interleaved(const Options& options, One one) {
    const int first = -static_cast<int>(options.warm_up);
    for (int run = first; run < static_cast<int>(options.runs); ++run) {
        const bool floor_first = run % 2 == 0;
        for (const Side side : {floor_first ? Side::floor : Side::ours, floor_first ? Side::ours : Side::floor}) {
            if (Status status = one(side, run); !status) {
                return status;
            }
            std::this_thread::sleep_for(kSettle);
        }
    }
    return {};
}

struct LiveGuest;
[[nodiscard]] bool is_device(const std::string& target);
/// A file is removed, a device left alone.
void remove_target(const std::string& target);
/// An empty area on a device, which must be one already or hold nothing else that is known; no file.
Status prepare_target(const Options& options, const LiveGuest& guest);
/// The body of PUT /snapshot/create.
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
Status bench_balloon(const Options& options, Report& report);
Status bench_net(const Options& options, Report& report);
Status bench_stream(const Options& options, Report& report);

}  // namespace snapvm::bench
