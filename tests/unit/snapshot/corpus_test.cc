// SPDX-License-Identifier: Apache-2.0
// The fuzzer's seeds: the beginnings of real areas. They must stay readable;
// SNAPVM_WRITE_CORPUS=FOLDER makes them anew.
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "snapshot/format/layout.h"
#include "snapshot/report/inspect.h"
#include "tests/unit/snapshot/fixture.h"

namespace snapvm::test {
namespace {

class Corpus : public SnapshotTest {};

TEST_F(Corpus, SeedsAreBeginningsOfAreas) {
    for (const std::uint32_t slots : {1U, 2U}) {
        FakeMachine machine(2ULL << 20);
        for (StateRecord& record : machine.records()) {
            record.bytes.resize(16);
        }
        ASSERT_OK(write_snapshot(machine, area("seed" + std::to_string(slots)), with_slots(slots)));
        const std::string path = area("seed" + std::to_string(slots)).path;
        const std::string whole = *read_file(path, 64U << 20);
        // To the end of the state section; the last byte tells the fuzz target to sign it, and to
        // go on with zeros.
        const std::string seed = whole.substr(0, 20480) + '\x03';
        if (const char* folder = std::getenv("SNAPVM_WRITE_CORPUS"); folder != nullptr) {
            std::ofstream(std::string(folder) + "/slots" + std::to_string(slots)) << seed;
        }
        std::ofstream(path) << seed;
        ASSERT_EQ(::truncate(path.c_str(), 16 << 20), 0);
        EXPECT_TRUE(open_snapshot({path, 0}).has_value());
    }
}

// Behind the beginning the entries of RAM, which the fuzz target puts in their place.
TEST_F(Corpus, ASeedHasSharedPages) {
    FakeMachine machine(2ULL << 20);
    for (StateRecord& record : machine.records()) {
        record.bytes.resize(16);
    }
    MemoryBlock& ram = machine.block(BlockId::ram_low);
    for (std::uint64_t page = 0; page < 20; ++page) {
        machine.fill(BlockId::ram_low, page, 1);
    }
    std::memcpy(ram.host() + 40 * kPageSize, ram.host(), 20 * kPageSize);
    machine.clear(BlockId::ram_low, 70);
    ASSERT_OK(write_snapshot(machine, area(), with_slots(1)));
    EXPECT_EQ(open_snapshot(area(), {.share = true})->shared_pages, 20U);
    const std::string whole = *read_file(area().path, 64U << 20);
    const auto info = inspect_area(area());
    const auto* entries =
        info->superblocks[*info->chosen].valid->find(SectionKind::entries, static_cast<std::uint32_t>(ram.spec().id));
    const std::string seed = whole.substr(0, 20480) + whole.substr(entries->offset, entries->length) + '\x07';
    if (const char* folder = std::getenv("SNAPVM_WRITE_CORPUS"); folder != nullptr) {
        std::ofstream(std::string(folder) + "/shared") << seed;
    }
}

}  // namespace
}  // namespace snapvm::test
