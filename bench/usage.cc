// SPDX-License-Identifier: Apache-2.0
#include "bench/usage.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "vmm/base/fd.h"
#include "vmm/base/try.h"
#include "vmm/kvm/abi.h"
#include "vmm/machine/machine.h"

namespace snapvm::bench {
namespace {

namespace fs = std::filesystem;

std::uint64_t process_cpu_ns() {
    rusage used{};
    ::getrusage(RUSAGE_SELF, &used);
    const auto us = [](const timeval& time) {
        return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000 + static_cast<std::uint64_t>(time.tv_usec);
    };
    return (us(used.ru_utime) + us(used.ru_stime)) * 1000;
}

std::string first_line(const fs::path& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

std::uint64_t thread_cpu_ns(const std::string& name) {
    std::uint64_t sum = 0;
    for (const fs::directory_entry& task : fs::directory_iterator("/proc/self/task")) {
        if (first_line(task.path() / "comm") == name) {
            // schedstat starts with the time on a processor, in ns.
            std::istringstream(first_line(task.path() / "schedstat")) >> sum;
        }
    }
    return sum;
}

Status read_at(int fd, void* to, std::size_t size, std::uint64_t offset) {
    const ssize_t got = ::pread(fd, to, size, static_cast<off_t>(offset));
    if (got != static_cast<ssize_t>(size)) {
        return fail(Error::system("pread", "a vCPU's statistics", got < 0 ? errno : EIO));
    }
    return {};
}

constexpr std::array<std::string_view, 3> kNames = {"exits", "halt_exits", "irq_injections"};

}  // namespace

// Source: Linux, Documentation/virt/kvm/api.rst, 4.133. The file has a header, descriptors with a
// name after each, and 64-bit values.
Result<UsageMeter::Vcpu> UsageMeter::open_vcpu(int fd) {
    Vcpu vcpu;
    vcpu.statistics = UniqueFd(::ioctl(fd, KVM_GET_STATS_FD, nullptr));
    if (!vcpu.statistics.valid()) {
        return fail(Error::system("KVM_GET_STATS_FD", "vCPU", errno, "use Linux 5.14 or newer, which counts exits"));
    }
    kvm_stats_header header{};
    TRY(read_at(vcpu.statistics.get(), &header, sizeof header, 0));
    std::vector<char> name(header.name_size);
    for (std::uint32_t i = 0; i < header.num_desc; ++i) {
        kvm_stats_desc one{};
        const std::uint64_t at = header.desc_offset + i * (sizeof one + name.size());
        TRY(read_at(vcpu.statistics.get(), &one, sizeof one, at));
        TRY(read_at(vcpu.statistics.get(), name.data(), name.size(), at + sizeof one));
        const auto known = std::ranges::find(kNames, std::string_view(name.data()));
        if (known != kNames.end()) {
            vcpu.places[static_cast<std::size_t>(known - kNames.begin())] = header.data_offset + one.offset;
        }
    }
    return vcpu;
}

// The library does not hand out its descriptors, so they are found by their names in /proc.
Result<UsageMeter> UsageMeter::open(const Machine& machine) {
    UsageMeter meter;
    meter.machine_ = &machine;
    std::vector<int> fds;
    for (const fs::directory_entry& entry : fs::directory_iterator("/proc/self/fd")) {
        std::error_code gone;
        const std::string name = fs::read_symlink(entry.path(), gone).string();
        if (name.starts_with("anon_inode:kvm-vcpu:")) {
            fds.push_back(std::stoi(entry.path().filename().string()));
        }
    }
    for (const int fd : fds) {
        meter.vcpus_.push_back(TRY(open_vcpu(fd)));
    }
    return meter;
}

Result<Usage> UsageMeter::now() const {
    Usage usage;
    for (const Vcpu& vcpu : vcpus_) {
        const std::array<std::uint64_t*, kCounts> counts = {&usage.exits, &usage.halts, &usage.injections};
        for (std::size_t i = 0; i < kCounts; ++i) {
            std::uint64_t value = 0;
            TRY(read_at(vcpu.statistics.get(), &value, sizeof value, vcpu.places[i]));
            *counts[i] += value;
        }
    }
    usage.our_exits = machine_->stats().exits;
    usage.devices_cpu_ns = thread_cpu_ns("devices");
    usage.cpu_ns = process_cpu_ns();
    return usage;
}

Usage Usage::since(const Usage& earlier) const {
    return {.cpu_ns = cpu_ns - earlier.cpu_ns,
            .devices_cpu_ns = devices_cpu_ns - earlier.devices_cpu_ns,
            .exits = exits - earlier.exits,
            .our_exits = our_exits - earlier.our_exits,
            .halts = halts - earlier.halts,
            .injections = injections - earlier.injections};
}

std::string Usage::text() const {
    std::ostringstream text;
    text << "cpu=" << cpu_ns << " devices_cpu=" << devices_cpu_ns << " exits=" << exits << " our_exits=" << our_exits
         << " halts=" << halts << " injections=" << injections;
    return text.str();
}

}  // namespace snapvm::bench
