// SPDX-License-Identifier: Apache-2.0
// scan: the cost of looking at each page in one thread. It measures the zero scan, and the whole
// classification (population, zero scan, checksum, hash), and compares them with memcpy of the same
// bytes and with a sum that only reads them.
#include <emmintrin.h>

#include <cstring>
#include <iterator>

#include "bench/process.h"
#include "bench/scenario.h"
#include "snapshot/format/superblock.h"
#include "snapshot/write/classify.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

constexpr const char* kScenario = "scan";
constexpr std::uint64_t kBytes = 256ULL << 20;  // far more than a cache holds
constexpr std::uint64_t kChunkPages = 16384;  // as in the first round of a snapshot

double gb_per_s(double us) { return static_cast<double>(kBytes) / us / 1e3; }

template <class Work>
Result<double> time_us(Work work) {
    const std::uint64_t start = now_ns();
    TRY(work());
    return static_cast<double>(now_ns() - start) / 1e3;
}

// The compiler may neither drop what comes before this call nor move it behind.
void keep(const void* what) { asm volatile("" : : "r"(what) : "memory"); }

// Sums a cache line at a time, in four registers that do not depend on each other.
std::uint64_t sum(std::span<const std::byte> bytes) {
    const auto* at = reinterpret_cast<const __m128i*>(bytes.data());
    __m128i totals[4] = {};
    for (const auto* end = at + bytes.size() / sizeof(__m128i); at != end; at += std::size(totals)) {
        for (std::size_t i = 0; i < std::size(totals); ++i) {
            totals[i] = _mm_add_epi64(totals[i], _mm_load_si128(at + i));
        }
    }
    const __m128i all = _mm_add_epi64(_mm_add_epi64(totals[0], totals[1]), _mm_add_epi64(totals[2], totals[3]));
    return static_cast<std::uint64_t>(_mm_cvtsi128_si64(all)) +
           static_cast<std::uint64_t>(_mm_cvtsi128_si64(_mm_srli_si128(all, 8)));
}

class Scan {
public:
    static Result<Scan> over(bool zeros) {
        const BlockSpec spec{.id = BlockId::ram_low, .base = Gpa{0}, .size = kBytes};
        Scan scan(TRY(MemoryBlock::anonymous(spec, PagePolicy::automatic)),
                  TRY(MemoryBlock::anonymous(spec, PagePolicy::automatic)), Classifier(TRY(PopulationScanner::open())));
        std::memset(scan.copy_.host(), 1, kBytes);
        std::memset(scan.memory_.host(), 0, kBytes);
        std::uint64_t random = 1;
        for (std::uint64_t at = 0; at < kBytes && !zeros; at += sizeof random) {
            random = random * 6364136223846793005ULL + 1442695040888963407ULL;
            std::memcpy(scan.memory_.host() + at, &random, sizeof random);
        }
        return scan;
    }

    Result<Sample> floor(const std::string& name, int run) {
        const double copied = TRY(time_us([&]() -> Status {
            std::memcpy(copy_.host(), memory_.host(), kBytes);
            keep(copy_.host());
            return {};
        }));
        const double summed = TRY(time_us([&]() -> Status {
            const std::uint64_t total = sum(memory_.bytes());
            keep(&total);
            return {};
        }));
        return Sample{kScenario,
                      name,
                      Side::floor,
                      run,
                      copied,
                      {{"memcpy", copied}, {"sum", summed}},
                      {{"memcpy_gb_per_s", gb_per_s(copied)}, {"sum_gb_per_s", gb_per_s(summed)}}};
    }
    Result<Sample> ours(const std::string& name, int run, bool zero_scan_alone) {
        const double us = TRY(time_us([&] { return zero_scan_alone ? scan_zeros() : classify(); }));
        return Sample{kScenario, name, Side::ours, run, us, {}, {{"gb_per_s", gb_per_s(us)}}};
    }

private:
    Scan(MemoryBlock memory, MemoryBlock copy, Classifier classifier)
        : memory_(std::move(memory)), copy_(std::move(copy)), classifier_(std::move(classifier)), facts_(kChunkPages) {}

    Status scan_zeros() {
        std::uint64_t zeros = 0;
        for (std::uint64_t page = 0; page < memory_.spec().pages(); ++page) {
            zeros += is_all_zero(memory_.page(page)) ? 1 : 0;
        }
        keep(&zeros);
        return {};
    }
    Status classify() {
        for (std::uint64_t first = 0; first < memory_.spec().pages(); first += kChunkPages) {
            TRY(classifier_.classify(memory_, first, facts_));
        }
        keep(facts_.data());
        return {};
    }

    MemoryBlock memory_;
    MemoryBlock copy_;
    Classifier classifier_;
    std::vector<PageFacts> facts_;
};

}  // namespace

Status bench_scan(const Options& options, Report& report) {
    struct Case {
        const char* name;
        bool zeros;
        bool zero_scan_alone;
    };
    for (const Case& one : {Case{"zero scan of zero pages", true, true}, Case{"classes of zero pages", true, false},
                            Case{"classes of data pages", false, false}}) {
        Scan scan = TRY(Scan::over(one.zeros));
        TRY(interleaved(options, [&](Side side, int run) -> Status {
            return report.add(
                TRY(side == Side::floor ? scan.floor(one.name, run) : scan.ours(one.name, run, one.zero_scan_alone)));
        }));
    }
    return {};
}

}  // namespace snapvm::bench
