// SPDX-License-Identifier: Apache-2.0
// What the ledger's disk verifier allows for records in flight, and what it does not (for machines
// see kvm/ledger_disk_test.cc).
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <map>
#include <random>

#include "guest-images/ledger/ledger_disk_verify.h"

namespace snapvm::ledger {
namespace {

using Page = std::array<std::uint64_t, kPageWords>;

constexpr std::uint64_t kHeaders = 0x200000, kDisk = 0x300000, kStamps = 0x301000, kBlocks = 16, kEvery = 2;

// A ledger's memory, as far as the verifier looks, with the records 1 to `submitted`, of which
// `flushed` are flushed; and its disk.
class DiskVerify : public ::testing::Test {
protected:
    void fill(std::uint64_t submitted, std::uint64_t flushed, std::uint64_t landed) {
        Root root{};
        root.magic = kRootMagic;
        root.version = kVersion;
        root.shards = 1;
        root.headers = kHeaders;
        root.disk = kDisk;
        root.checksum = root_checksum(root);
        root.state = State::ready;
        store(kRootAddress, root);
        ShardHeader header{};
        header.steps = submitted * kEvery;
        store(kHeaders, header);
        header_ = {.magic = kDiskMagic,
                   .id = 77,
                   .blocks = kBlocks,
                   .every = kEvery,
                   .stamps = kStamps,
                   .submitted = submitted,
                   .flushed = flushed,
                   .landed = landed,
                   .pending = {}};
        for (std::uint64_t number = 1; number <= submitted; ++number) {
            if (number > flushed) {
                header_.pending[number % kDiskWindow] = stamp(number);
            } else {
                memory_[kStamps][record_block(header_, number)] = stamp(number);
            }
            put(number, stamp(number));
        }
        memory_[kStamps];
        store(kDisk, header_);
    }
    static std::uint64_t stamp(std::uint64_t number) { return 1000 + number; }
    void put(std::uint64_t number, std::uint64_t stamp) {
        Page& words = disk_[record_block(header_, number)];
        const RecordHead head{kRecordMagic, header_.id, number, stamp, {number * kEvery}, {}};
        std::memcpy(words.data(), &head, sizeof head);
        std::uint64_t sum = 0;
        for (std::uint32_t i = kHeadWords; i < kPageWords - 1; ++i) {
            words[i] = record_base(header_, number, stamp) + i * kPayloadStep;
            sum += words[i];
        }
        words[kPageWords - 1] = page_checksum(words.data(), sum);
    }
    template <class T>
    void store(std::uint64_t address, const T& value) {
        std::memcpy(memory_[address].data(), &value, sizeof value);
    }
    Fault verify() {
        const auto find = [](auto& pages, std::uint64_t at) -> const void* {
            const auto page = pages.find(at);
            return page == pages.end() ? nullptr : page->second.data();
        };
        return verify_disk(
                   [&](std::uint64_t address) { return find(memory_, address); },
                   [&](std::uint64_t block) -> const void* { return block < kBlocks ? disk_[block].data() : nullptr; })
            .fault;
    }

    DiskHeader header_{};
    std::map<std::uint64_t, Page> memory_;
    std::map<std::uint64_t, Page> disk_;
};

TEST_F(DiskVerify, ARecordOnItsWayMayBeThereOrNot) {
    fill(20, 16, 0);
    EXPECT_EQ(verify(), Fault::none);
    put(4, stamp(4));  // 20's place, before it was written
    EXPECT_EQ(verify(), Fault::none);
    put(4, stamp(4) + 1);
    EXPECT_EQ(verify(), Fault::disk_stamp) << "of another clone";
    put(20, stamp(20) + 1);
    EXPECT_EQ(verify(), Fault::disk_stamp);
    disk_[3] = {};
    EXPECT_EQ(verify(), Fault::disk_record) << "neither";
}

TEST_F(DiskVerify, ARecordThatLandedOrIsFlushedIsThere) {
    fill(20, 16, 1U << 20 % kDiskWindow);
    EXPECT_EQ(verify(), Fault::none);
    put(4, stamp(4));
    EXPECT_EQ(verify(), Fault::disk_record) << "20 has landed";
    fill(24, 24, 0);
    EXPECT_EQ(verify(), Fault::none);
    put(1, stamp(1));
    EXPECT_EQ(verify(), Fault::disk_record);
}

TEST_F(DiskVerify, ARecordThatWasNeverSubmittedIsFound) {
    fill(10, 8, 0);
    EXPECT_EQ(verify(), Fault::none) << "with blocks that are not written yet";
    put(11, stamp(11));
    EXPECT_EQ(verify(), Fault::disk_record);
    fill(20, 16, 0);
    put(36, stamp(36));
    EXPECT_EQ(verify(), Fault::disk_record);
}

// The moments between the stores that end a window.
TEST_F(DiskVerify, TheEndOfAWindowIsSoundAtEachOfItsSteps) {
    fill(24, 16, 0xFF);
    for (std::uint64_t number = 17; number <= 24; ++number) {
        EXPECT_EQ(verify(), Fault::none) << number;
        memory_[kStamps][record_block(header_, number)] = stamp(number);
    }
    EXPECT_EQ(verify(), Fault::none);
    header_.flushed = 24;
    store(kDisk, header_);
    EXPECT_EQ(verify(), Fault::none);
    header_.landed = 0;
    store(kDisk, header_);
    EXPECT_EQ(verify(), Fault::none);
}

TEST_F(DiskVerify, AHeaderThatCannotBeIsFound) {
    fill(20, 16, 0);
    header_.submitted = 21;  // no step was made for it
    store(kDisk, header_);
    EXPECT_EQ(verify(), Fault::disk_header);
    header_.submitted = 19;  // the last is due, and about to be
    store(kDisk, header_);
    put(4, stamp(4));
    EXPECT_EQ(verify(), Fault::none);
    header_.flushed = 8;
    store(kDisk, header_);
    EXPECT_EQ(verify(), Fault::disk_header);
}

TEST_F(DiskVerify, NoiseDoesNoHarm) {
    std::mt19937_64 random(7);
    for (int i = 0; i < 2000; ++i) {
        fill(20, 16, 0);
        auto* words = memory_[kDisk].data();
        words[1 + random() % (sizeof(DiskHeader) / 8 - 1)] = random() >> random() % 64;
        (void)verify();
        disk_[random() % kBlocks][random() % kPageWords] = random();
        (void)verify();
    }
}

}  // namespace
}  // namespace snapvm::ledger
