// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/disk_ledger.h"

#include "guest-images/ledger/layout.h"
#include "guest-images/ledger/ledger.h"
#include "guest-images/ledger/ledger_disk_verify.h"
#include "guest-images/ledger/power.h"
#include "guest-images/ledger/virtio/blk.h"

namespace snapvm::guest {
namespace {

using namespace snapvm::ledger;

constexpr u64 kBlockSectors = kBlockBytes / virtio::Blk::kSectorBytes;
constexpr u64 kFlushCookie = 0;  // all other cookies are record numbers
constexpr u32 kReadBlocks = 16;  // in one read

constinit virtio::Blk disk;
bool in_use = false;
bool flushing = false;
u64 buffers = 0;  // kDiskWindow buffers of a block, by record number
u64 read_buffer = 0;

DiskHeader& header() { return *reinterpret_cast<DiskHeader*>(ledger_root.disk); }
u64& stamp_of(u64 number) { return reinterpret_cast<u64*>(header().stamps)[record_block(header(), number)]; }
u64 buffer_of(u64 number) { return buffers + number % kDiskWindow * kBlockBytes; }

void write_record(u64 number, u64 stamp) {
    u64* words = reinterpret_cast<u64*>(buffer_of(number));
    RecordHead head = {kRecordMagic, header().id, number, stamp, {}, {}};
    for (u32 s = 0; s < ledger_root.shards; ++s) head.steps[s] = committed_steps(s);
    __builtin_memcpy(words, &head, sizeof head);
    u64 sum = 0, value = record_base(header(), number, stamp) + kHeadWords * kPayloadStep;
    for (u32 i = kHeadWords; i < kPageWords - 1; ++i) {
        words[i] = value;
        sum += value;
        value += kPayloadStep;
    }
    words[kPageWords - 1] = page_checksum(words, sum);
}

void finish_window() {
    DiskHeader& h = header();
    for (u64 n = h.flushed + 1; n <= h.submitted; ++n) stamp_of(n) = h.pending[n % kDiskWindow];
    publish(h.flushed, h.submitted);
    publish(h.landed, u64{0});
}

void finish(const virtio::Blk::Done& done) {
    if (done.status != virtio::Blk::kOk)
        virtio::broken(virtio::Type::block, done.cookie == kFlushCookie ? "a flush failed" : "a write failed");
    DiskHeader& h = header();
    if (done.cookie != kFlushCookie) {
        publish(h.landed, h.landed | u64{1} << done.cookie % kDiskWindow);
        return;
    }
    flushing = false;
    finish_window();
}

bool window_is_done() {
    const DiskHeader& h = header();
    return h.submitted == h.flushed + kDiskWindow && h.landed == (1ULL << kDiskWindow) - 1;
}

// Returns blocks one after the other. It reads kReadBlocks of them at a time.
class BlockReader {
public:
    const void* operator()(u64 block) {
        if (block - first_ >= count_) {
            first_ = block;
            count_ = header().blocks - block < kReadBlocks ? header().blocks - block : kReadBlocks;
            disk.read(block * kBlockSectors, read_buffer, static_cast<u32>(count_ * kBlockBytes), 0);
            disk.submit();
            disk.queue().wait(1);
            virtio::Blk::Done done;
            if (!disk.collect(done) || done.status != virtio::Blk::kOk) return nullptr;
        }
        return reinterpret_cast<const void*>(read_buffer + (block - first_) * kBlockBytes);
    }

private:
    u64 first_ = 0;
    u64 count_ = 0;
};

}  // namespace

void start_disk(const Options& options) {
    if (!options.disk) return;
    if (!disk.start(0, options.ring_features)) panic("no disk");
    if (disk.read_only()) panic("the disk is read-only");
    const u64 wanted = options.disk_size / kBlockBytes, there = disk.sectors() / kBlockSectors;
    DiskHeader& h = header();
    h.blocks = wanted < there ? wanted : there;
    if (h.blocks < kLeastBlocks) panic("the disk is too small");
    h.id = mix(read_tsc() ^ options.seed);
    h.every = options.disk_every;
    h.stamps = take_memory(h.blocks * 8, "no memory for the disk's stamps");
    buffers = take_memory(kDiskWindow * kBlockBytes, "no memory for the disk's records");
    read_buffer = take_memory(kReadBlocks * kBlockBytes, "no memory to read the disk");
    publish(h.magic, kDiskMagic);
    in_use = true;
}

bool disk_has_room() { return !in_use || header().submitted - header().flushed < kDiskWindow; }

void record_step() {
    if (!in_use || committed_steps(0) % header().every != 0) return;
    DiskHeader& h = header();
    const u64 number = h.submitted + 1, stamp = mix(read_tsc() + number);
    write_record(number, stamp);
    publish(h.pending[number % kDiskWindow], stamp);
    publish(h.submitted, number);
    disk.write(record_block(h, number) * kBlockSectors, buffer_of(number), kBlockBytes, number);
    disk.submit();
}

void serve_disk() {
    if (!in_use) return;
    do {
        virtio::Blk::Done done;
        while (disk.collect(done)) finish(done);
        if (window_is_done() && !flushing) {
            if (disk.needs_flush()) {
                flushing = true;
                disk.flush(kFlushCookie);
                disk.submit();
            } else {
                finish_window();
            }
        }
        // One interrupt comes for all requests in flight.
    } while (disk.queue().outstanding() != 0 && !disk.queue().ask_for_interrupt(disk.queue().outstanding()));
}

ledger::Finding check_disk() {
    if (!in_use) return {};
    for (serve_disk(); disk.queue().outstanding() != 0; serve_disk()) disk.queue().wait(1);
    return verify_disk([](u64 address) { return reinterpret_cast<const void*>(address); }, BlockReader());
}

u64 disk_records() { return in_use ? header().submitted : 0; }

}  // namespace snapvm::guest
