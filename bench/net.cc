// SPDX-License-Identifier: Apache-2.0
// net: a guest's frames into a tap, compared with the same frames by write or io_uring, whichever
// is faster. On both sides the clock runs from just before the frames are ordered until their
// sender has noted the end of the last one. The tap's own count shows that all of them arrived.
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "bench/co_process.h"
#include "bench/load_guest.h"
#include "bench/scenario.h"
#include "vmm/base/fd.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

constexpr const char* kScenario = "net";

struct Case {
    const char* name;
    std::uint64_t size;
    unsigned depth;
    unsigned batch;
    std::uint64_t count;
};
constexpr Case kCases[] = {{"frames of 64K, 32 in flight", 65536, 32, 16, 16384},
                           {"frames of 64 bytes, 128 in flight", 64, 128, 64, 131072}};

// A tap that is up for as long as this object exists. Processes that open it have to close it
// before.
class BenchTap {
public:
    static Result<BenchTap> make(const std::string& name) {
        const UniqueFd tun = TRY(open_file("/dev/net/tun", O_RDWR));
        ifreq request = request_for(name);
        request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        if (::ioctl(tun.get(), TUNSETIFF, &request) != 0 || ::ioctl(tun.get(), TUNSETPERSIST, 1) != 0) {
            return fail(Error::system("TUNSETIFF", name, errno));
        }
        BenchTap tap(name);
        const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        request.ifr_flags = IFF_UP;
        if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) {
            return fail(Error::system("SIOCSIFFLAGS", name, errno));
        }
        return tap;
    }
    BenchTap(BenchTap&& other) noexcept : name_(std::exchange(other.name_, "")) {}
    BenchTap& operator=(BenchTap&&) = delete;
    ~BenchTap() {
        if (name_.empty()) {
            return;
        }
        const UniqueFd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
        ifreq request = request_for(name_);
        request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        if (::ioctl(tun.get(), TUNSETIFF, &request) == 0) {
            (void)::ioctl(tun.get(), TUNSETPERSIST, 0);
        }
    }
    [[nodiscard]] const std::string& name() const { return name_; }
    /// Returns how many frames have come out of the tap into the host.
    [[nodiscard]] std::uint64_t frames() const {
        std::uint64_t count = 0;
        std::ifstream("/sys/class/net/" + name_ + "/statistics/rx_packets") >> count;
        return count;
    }

private:
    explicit BenchTap(std::string name) : name_(std::move(name)) {}
    static ifreq request_for(const std::string& name) {
        ifreq request{};
        std::memcpy(request.ifr_name, name.data(), std::min(name.size(), sizeof request.ifr_name - 1));
        return request;
    }
    std::string name_;
};

Sample sample_of(const Case& one, Side side, int run, double us, double cpu_us, const Parts& all) {
    const auto count = static_cast<double>(one.count);
    Sample sample{kScenario, one.name, side, run, us, {}, {}};
    sample.figures = {{"mb_per_s", static_cast<double>(one.size) * count / us},
                      {"frames_per_s", count * 1e6 / us},
                      {"cpu_us_a_frame", cpu_us / count}};
    if (side == Side::ours) {
        sample.figures.emplace_back("devices_cpu_us_a_frame", part_of(all, "devices_cpu") / 1e3 / count);
        for (const char* what : {"exits", "our_exits", "halts", "injections", "notifications"}) {
            sample.figures.emplace_back(std::string(what) + "_a_frame", part_of(all, what) / count);
        }
    }
    return sample;
}

Sample floor_sample(const Case& one, int run, const Parts& all) {
    const std::string way = part_of(all, "uring") < part_of(all, "write") ? "uring" : "write";
    Sample sample = sample_of(one, Side::floor, run, part_of(all, way) / 1e3, part_of(all, way + "_cpu") / 1e3, all);
    sample.parts = {{"write", part_of(all, "write") / 1e3}, {"uring", part_of(all, "uring") / 1e3}};
    return sample;
}

Status one_case(const Options& options, Report& report, const Case& one, Process& floor, LoadProcess& ours,
                const BenchTap& our_tap) {
    return interleaved(options, [&](Side side, int run) -> Status {
        if (side == Side::floor) {
            TRY(floor.send(std::to_string(one.size) + ' ' + std::to_string(one.depth) + ' ' +
                           std::to_string(one.count) + '\n'));
            return report.add(floor_sample(one, run, parse_parts(TRY(floor.line()), 1)));
        }
        const std::uint64_t before = our_tap.frames();
        const Parts all = TRY(ours.run({.kind = ledger::LoadKind::frames,
                                        .size = one.size,
                                        .count = one.count,
                                        .depth = one.depth,
                                        .batch = one.batch}));
        if (our_tap.frames() - before != one.count) {
            return fail(ErrorKind::system, std::to_string(our_tap.frames() - before) + " of " +
                                               std::to_string(one.count) + " frames came out of the tap");
        }
        return report.add(sample_of(one, side, run, part_of(all, "ns") / 1e3, part_of(all, "cpu") / 1e3, all));
    });
}

}  // namespace

Status bench_net(const Options& options, Report& report) {
    auto floor_tap = BenchTap::make("snapvm-floor");
    auto our_tap = BenchTap::make("snapvm-bench");
    if (!floor_tap || !our_tap) {
        std::fprintf(stderr, "net: left out: %s\n", (floor_tap ? our_tap : floor_tap).error().message().c_str());
        return {};
    }
    Process floor = TRY(Process::start({options.raw_tap(), floor_tap->name()}));
    LoadProcess ours =
        TRY(LoadProcess::start(options.self, {.memory = "256M", .region = "2M", .tap = our_tap->name()}));
    for (const Case& one : kCases) {
        TRY(one_case(options, report, one, floor, ours, *our_tap));
    }
    return {};
}

}  // namespace snapvm::bench
