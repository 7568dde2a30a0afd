// SPDX-License-Identifier: Apache-2.0
#include "bench/tracker_worker.h"

#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <thread>

#include "bench/stirring_guest.h"
#include "vmm/base/try.h"
#include "vmm/memory/dirty_feed.h"

namespace snapvm::bench {
namespace {

constexpr auto kInterval = std::chrono::milliseconds(100);  ///< between harvests
constexpr std::uint64_t kArmPages = 16384;  ///< as the first round of a snapshot arms

double cpu_us(int who) {
    rusage used{};
    ::getrusage(who, &used);
    const auto us = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_usec);
    };
    return us(used.ru_utime) + us(used.ru_stime);
}
// Returns the vCPUs' processor time: no other thread works but this one.
double vcpu_cpu_us() { return cpu_us(RUSAGE_SELF) - cpu_us(RUSAGE_THREAD); }

struct Speed {
    double pages_per_s = 0;
    double cpu_percent = 0;
};

Speed watch(const Stirring& stirring) {
    const double cpu = vcpu_cpu_us();
    const SpeedMark begin(stirring);
    std::this_thread::sleep_for(kInterval);
    const SpeedMark end(stirring);
    return {begin.rate_to(end), (vcpu_cpu_us() - cpu) * 1e5 / static_cast<double>(end.ns - begin.ns)};
}

double us_since(std::uint64_t ns) { return static_cast<double>(now_ns() - ns) / 1e3; }

// Measures the untracked speed, turns tracking on and arms all pages, harvests once, and reports
// the second harvest.
Status track_once(const StirringGuest& guest) {
    Machine& machine = *guest.machine;
    DirtyFeed* feed = machine.dirty();
    if (feed == nullptr) {
        return fail(ErrorKind::unsupported, "this host's KVM cannot tell which pages a guest writes");
    }
    TRY(machine.resume());
    const Speed before = watch(guest.stirring);
    const std::uint64_t started = now_ns();
    auto subscription = TRY(feed->subscribe());
    const auto blocks = machine.memory().blocks();
    for (std::size_t block = 0; block < blocks.size(); ++block) {
        const std::uint64_t pages = blocks[block].spec().pages();
        for (std::uint64_t first = 0; first < pages; first += kArmPages) {
            TRY(feed->arm(block, first, std::min(kArmPages, pages - first)));
        }
    }
    feed->all_armed();
    const double start_us = us_since(started);
    std::this_thread::sleep_for(kInterval);
    TRY(feed->collect());
    subscription->pages().clear();
    const Speed during = watch(guest.stirring);
    const std::uint64_t harvested = now_ns();
    TRY(feed->collect());
    const double harvest_us = us_since(harvested);
    const std::uint64_t pages = subscription->pages().count();
    const std::uint64_t stopped = now_ns();
    subscription.reset();
    const double stop_us = us_since(stopped);
    TRY(machine.pause());
    std::printf(
        "harvest=%.1f start=%.1f stop=%.1f pages=%llu before=%.0f during=%.0f before_cpu=%.1f during_cpu=%.1f\n",
        harvest_us, start_us, stop_us, static_cast<unsigned long long>(pages), before.pages_per_s, during.pages_per_s,
        before.cpu_percent, during.cpu_percent);
    std::fflush(stdout);
    return {};
}

}  // namespace

Result<int> serve_trackers(std::span<const std::string> arguments) {
    const StirringGuest guest = TRY(StirringGuest::boot({arguments[0], arguments[1], arguments[2], arguments[3]}));
    std::printf("ready\n");
    std::fflush(stdout);
    for (std::string line; std::getline(std::cin, line);) {
        TRY(track_once(guest));
    }
    return 0;
}

}  // namespace snapvm::bench
