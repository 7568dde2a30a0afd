// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/layout.h"

#include "guest-images/ledger/paging.h"
#include "guest-images/ledger/power.h"

namespace snapvm::guest {

extern "C" const u8 image_end[];
[[gnu::section(".root")]] alignas(4096) ledger::Root ledger_root = {};

namespace {

using ledger::kPageBytes;
constexpr u64 kFourGib = 4ULL << 30;

// RAM that is left to give out, in whole pages above the image. Memory below the image is not used,
// because the VMM's tables may still be there.
class FreeMemory {
public:
    void fill(const BootInfo& boot) {
        const u64 floor = reinterpret_cast<u64>(image_end);
        for (u32 i = 0; i < boot.ranges; ++i) {
            u64 begin = (boot.ram[i].begin + kPageBytes - 1) & ~(kPageBytes - 1);
            u64 end = boot.ram[i].end & ~(kPageBytes - 1);
            if (begin < floor) begin = floor;
            if (end > kMappableEnd) end = kMappableEnd;
            if (begin < end && end <= kFourGib)
                add(begin, end);
            else if (begin < end && begin >= kFourGib)
                add(begin, end);
            else if (begin < end) {
                add(begin, kFourGib);
                add(kFourGib, end);
            }
        }
    }

    u64 bytes() const {
        u64 total = 0;
        for (u32 i = 0; i < count_; ++i) total += ranges_[i].end - ranges_[i].begin;
        return total;
    }
    bool reaches_above_4g() const {
        for (u32 i = 0; i < count_; ++i)
            if (ranges_[i].begin >= kFourGib) return true;
        return false;
    }

    // Takes a range in one piece and maps it. Ends the guest with `why` if there is none.
    u64 take(u64 size, bool may_be_high, const char* why) {
        for (u32 i = 0; i < count_; ++i) {
            if ((ranges_[i].begin >= kFourGib && !may_be_high) || ranges_[i].end - ranges_[i].begin < size) continue;
            const u64 address = ranges_[i].begin;
            ranges_[i].begin += size;
            map_identity(address, address + size);
            return address;
        }
        panic(why);
    }

    // Takes up to `pages` pages, `stride` bytes apart, on one side of 4 GiB, and adds them to the
    // root as segments. Returns how many it took.
    u64 take_pages(ledger::Root& root, u64 first_page, u64 pages, u64 stride, bool high) {
        u64 taken = 0;
        for (u32 i = 0; i < count_ && taken < pages; ++i) {
            MemoryRange& r = ranges_[i];
            if ((r.begin >= kFourGib) != high || r.end - r.begin < kPageBytes) continue;
            if (root.segment_count == ledger::kMaxSegments) break;
            u64 n = (r.end - r.begin - kPageBytes) / stride + 1;
            if (n > pages - taken) n = pages - taken;
            root.segments[root.segment_count++] = {first_page + taken, n, r.begin, stride};
            map_identity(r.begin, r.begin + (n - 1) * stride + kPageBytes);
            r.begin += (n - 1) * stride + kPageBytes;
            taken += n;
        }
        return taken;
    }

private:
    void add(u64 begin, u64 end) {
        if (count_ < BootInfo::kMaxRanges) ranges_[count_++] = {begin, end};
    }
    MemoryRange ranges_[BootInfo::kMaxRanges] = {};
    u32 count_ = 0;
};

constinit FreeMemory memory;

}  // namespace

void lay_out_ledger(const BootInfo& boot, const Options& options, u32 shards) {
    memory.fill(boot);
    ledger::Root& root = ledger_root;
    u64 working_set = options.working_set;
    const u64 left = memory.bytes() > options.stir ? memory.bytes() - options.stir : 0;
    if (!options.working_set_given && working_set > left / 2) working_set = left / 2;
    root.magic = ledger::kRootMagic;
    root.version = ledger::kVersion;
    root.shards = shards;
    root.pages = working_set / kPageBytes;
    if (root.pages < shards) panic("fewer pages than vCPUs");
    root.seed = options.seed;
    root.zero_percent = options.zero_percent;
    root.dup_percent = options.dup_percent;
    root.pages_per_shard = (root.pages + shards - 1) / shards;
    const u64 index_bytes = (root.pages_per_shard * shards * 8 + kPageBytes - 1) & ~(kPageBytes - 1);
    root.headers = memory.take(shards * kPageBytes + index_bytes, false, "no memory for the index");
    root.index = root.headers + shards * kPageBytes;

    const u64 stride = kPageBytes + options.gap;
    const u64 high = memory.reaches_above_4g() ? root.pages / 2 : 0;
    u64 placed = memory.take_pages(root, 0, root.pages - high, stride, false);
    placed += memory.take_pages(root, placed, root.pages - placed, stride, true);
    placed += memory.take_pages(root, placed, root.pages - placed, stride, false);
    if (placed != root.pages) panic("ws does not fit the memory");

    if (options.disk) root.disk = memory.take(kPageBytes, true, "no memory for the disk's header");
    root.stir_pages = options.stir / kPageBytes;
    if (root.stir_pages == 0) return;
    if (root.stir_pages < shards) panic("stir has fewer pages than vCPUs");
    root.stir = memory.take(options.stir, true, "stir does not fit the memory in one piece");
}

u64 take_memory(u64 bytes, const char* why) {
    return memory.take((bytes + kPageBytes - 1) & ~(kPageBytes - 1), true, why);
}

}  // namespace snapvm::guest
