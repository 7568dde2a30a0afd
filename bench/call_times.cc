// SPDX-License-Identifier: Apache-2.0
#include "bench/call_times.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdarg>
#include <cstdio>

#include "bench/process.h"
#include "vmm/kvm/abi.h"

namespace snapvm::bench {
namespace {

struct Name {
    unsigned long request;
    const char* name;
};
// Pseudo requests for calls other than ioctl.
constexpr unsigned long kMmap = 1;
constexpr unsigned long kMunmap = 2;
constexpr unsigned long kMadvise = 3;

#define NAMED(request) {request, #request}
constexpr std::array kNames = {
    Name{kMmap, "mmap"},
    Name{kMunmap, "munmap"},
    Name{kMadvise, "madvise"},
    Name NAMED(KVM_CHECK_EXTENSION),
    Name NAMED(KVM_CREATE_VCPU),
    Name NAMED(KVM_CREATE_VM),
    Name NAMED(KVM_ENABLE_CAP),
    Name NAMED(KVM_GET_MSRS),
    Name NAMED(KVM_GET_MSR_INDEX_LIST),
    Name NAMED(KVM_GET_REGS),
    Name NAMED(KVM_GET_SREGS),
    Name NAMED(KVM_GET_SUPPORTED_CPUID),
    Name NAMED(KVM_KVMCLOCK_CTRL),
    Name NAMED(KVM_SET_CLOCK),
    Name NAMED(KVM_SET_CPUID2),
    Name NAMED(KVM_SET_DEBUGREGS),
    Name NAMED(KVM_SET_GSI_ROUTING),
    Name NAMED(KVM_SET_IDENTITY_MAP_ADDR),
    Name NAMED(KVM_SET_LAPIC),
    Name NAMED(KVM_SET_MP_STATE),
    Name NAMED(KVM_SET_MSRS),
    Name NAMED(KVM_SET_REGS),
    Name NAMED(KVM_SET_SREGS),
    Name NAMED(KVM_SET_SREGS2),
    Name NAMED(KVM_SET_TSS_ADDR),
    Name NAMED(KVM_SET_USER_MEMORY_REGION),
    Name NAMED(KVM_SET_VCPU_EVENTS),
    Name NAMED(KVM_SET_XCRS),
    Name NAMED(KVM_SET_XSAVE),
    Name NAMED(KVM_SIGNAL_MSI),
};
#undef NAMED

// The last counter is for all requests that have no name here.
struct Counter {
    std::atomic<unsigned> count;
    std::atomic<std::uint64_t> ns;
};
std::array<Counter, kNames.size() + 1> counters;

void note(unsigned long request, std::uint64_t since) {
    const std::uint64_t took = now_ns() - since;
    const auto found = std::ranges::find(kNames, request, &Name::request);
    Counter& counter = counters[static_cast<std::size_t>(found - kNames.begin())];
    counter.count.fetch_add(1, std::memory_order_relaxed);
    counter.ns.fetch_add(took, std::memory_order_relaxed);
}

}  // namespace

void reset_call_times() {
    for (Counter& counter : counters) {
        counter.count = 0;
        counter.ns = 0;
    }
}

std::vector<CallTime> call_times() {
    std::vector<CallTime> times;
    for (std::size_t i = 0; i < counters.size(); ++i) {
        if (counters[i].count != 0) {
            times.push_back({i < kNames.size() ? kNames[i].name : "other", counters[i].count,
                             static_cast<double>(counters[i].ns) / 1e3});
        }
    }
    std::ranges::sort(times, std::ranges::greater{}, &CallTime::us);
    return times;
}

double call_time_us(const std::string& name) {
    const std::vector<CallTime> times = call_times();
    const auto found = std::ranges::find(times, name, &CallTime::name);
    return found == times.end() ? 0 : found->us;
}

}  // namespace snapvm::bench

// The linker's names: each call of X becomes one of __wrap_X, and __real_X is the C library's X.
extern "C" {
int __real_ioctl(int fd, unsigned long request, void* argument);
void* __real_mmap(void* at, std::size_t size, int protection, int flags, int fd, off_t offset);
int __real_munmap(void* at, std::size_t size);
int __real_madvise(void* at, std::size_t size, int advice);

int __wrap_ioctl(int fd, unsigned long request, ...) {
    std::va_list arguments;
    va_start(arguments, request);
    void* argument = va_arg(arguments, void*);
    va_end(arguments);
    if (request == KVM_RUN) {
        return __real_ioctl(fd, request, argument);
    }
    const std::uint64_t start = snapvm::bench::now_ns();
    const int result = __real_ioctl(fd, request, argument);
    snapvm::bench::note(request, start);
    return result;
}

void* __wrap_mmap(void* at, std::size_t size, int protection, int flags, int fd, off_t offset) {
    const std::uint64_t start = snapvm::bench::now_ns();
    void* result = __real_mmap(at, size, protection, flags, fd, offset);
    snapvm::bench::note(snapvm::bench::kMmap, start);
    return result;
}

int __wrap_munmap(void* at, std::size_t size) {
    const std::uint64_t start = snapvm::bench::now_ns();
    const int result = __real_munmap(at, size);
    snapvm::bench::note(snapvm::bench::kMunmap, start);
    return result;
}

int __wrap_madvise(void* at, std::size_t size, int advice) {
    const std::uint64_t start = snapvm::bench::now_ns();
    const int result = __real_madvise(at, size, advice);
    snapvm::bench::note(snapvm::bench::kMadvise, start);
    return result;
}
}
