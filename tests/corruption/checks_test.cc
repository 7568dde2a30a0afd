// SPDX-License-Identifier: Apache-2.0
// restore, inspect and verify make the same checks, and the second reader, which was written from
// FORMAT.md alone, agrees with them on areas that are wrong in one thing and signed.
#include <cstdio>
#include <fstream>
#include <functional>
#include <sstream>

#include "snapshot/report/inspect.h"
#include "snapshot/report/verify.h"
#include "tests/corruption/forged_area.h"
#include "tests/support/paths.h"

namespace snapvm::test {
namespace {

constexpr BlockId kLow = BlockId::ram_low;
constexpr BlockId kFirmware = BlockId::firmware;
constexpr BlockId kVmGenId = BlockId::vmgenid;

enum class Wanted : std::uint8_t {
    good,
    /// `verify` finds it. A restore need not look at it.
    found,
    refused,
};

struct Case {
    const char* name;
    Wanted wanted;
    std::function<void(ForgedArea&)> forge;
};

void change_state(ForgedArea& area, const std::function<void(std::vector<StateRecord>&)>& change) {
    auto records = *decode_state(area.contents(SectionKind::state));
    change(records);
    area.put(SectionKind::state, encode_state(records));
}

void change_start(ForgedArea& area, const std::function<void(StartSection&)>& change) {
    StartSection start = *StartSection::decode(area.contents(SectionKind::start));
    change(start);
    area.put(SectionKind::start, start.encode());
}

void put_plan(ForgedArea& area, const std::vector<PlanRun>& runs) { area.put(SectionKind::plan, encode_plan(runs)); }

void put_entry(ForgedArea& area, std::uint64_t page, std::uint64_t word) {
    std::memcpy(area.contents(SectionKind::entries, kLow).data() + page * sizeof word, &word, sizeof word);
}

std::byte& byte_from_end(ForgedArea& area, SectionKind kind, std::size_t from_end) {
    const auto bytes = area.contents(kind);
    return bytes[bytes.size() - from_end];
}

// One slot, snapshot twice: superblock 1 is complete, and superblock 0 is `writing`.
const std::vector<Case>& cases() {
    using enum SectionKind;
    using enum Wanted;
    static const std::vector<Case> all = {
        {"nothing", good, [](ForgedArea&) {}},
        // Superblocks.
        {"sequence number 0", refused, [](ForgedArea& area) { area.sb().sequence = 0; }},
        {"equal sequence numbers", refused,
         [](ForgedArea& area) { area.superblocks[1 - area.chosen].sequence = area.sb().sequence; }},
        {"equal sequence numbers, both writing", refused,
         [](ForgedArea& area) { area.sb() = area.superblocks[1 - area.chosen]; }},
        {"reserved header byte", refused,
         [](ForgedArea& area) {
             area.encode();
             area.bytes[area.chosen * kSuperblockSize + 300] = std::byte{1};
         }},
        {"another machine id", refused, [](ForgedArea& area) { area.sb().machine_id.bytes[3] ^= 1; }},
        {"other vCPUs", refused, [](ForgedArea& area) { area.sb().cpus = 2; }},
        // The section table.
        {"table in another order", good,
         [](ForgedArea& area) {
             // Entries and data stay in block-list order.
             std::ranges::stable_partition(area.sb().sections, [](const Section& s) { return s.block != 0; });
             std::ranges::stable_partition(area.sb().sections, [](const Section& s) { return s.kind == data; });
         }},
        {"sections in other places", good,
         [](ForgedArea& area) {
             std::swap(area.section(metadata).offset, area.section(disks).offset);
             const auto moved = std::span(area.bytes).subspan(area.section(disks).offset, 7);
             std::ranges::copy(moved, area.bytes.begin() + static_cast<std::ptrdiff_t>(area.section(metadata).offset));
             std::ranges::fill(moved, std::byte{0});
         }},
        {"blocks in another order", refused,
         [](ForgedArea& area) {
             std::ranges::stable_partition(
                 area.sb().sections, [](const Section& s) { return s.block == static_cast<std::uint32_t>(kFirmware); });
         }},
        {"a section twice", refused,
         [](ForgedArea& area) {
             Section again = area.section(working_set);
             again.capacity = 0;
             area.sb().sections.push_back(again);
         }},
        {"unknown section", refused,
         [](ForgedArea& area) { area.section(working_set).kind = static_cast<SectionKind>(9); }},
        {"a working set", refused, [](ForgedArea& area) { area.section(working_set).length = 8; }},
        {"disks", refused, [](ForgedArea& area) { area.section(disks).length = 8; }},
        // Start.
        {"reserved byte of start", refused, [](ForgedArea& area) { area.contents(start)[4] = std::byte{1}; }},
        {"reserved byte of a block", refused, [](ForgedArea& area) { area.contents(start)[12] = std::byte{1}; }},
        {"another block address", refused,
         [](ForgedArea& area) { change_start(area, [](StartSection& s) { s.blocks[1].base.value += kPageSize; }); }},
        {"another block id", refused,
         [](ForgedArea& area) { change_start(area, [](StartSection& s) { s.blocks[2].id = BlockId{33}; }); }},
        {"another sum of sizes", refused, [](ForgedArea& area) { area.contents(start)[8 + 24 * 3] = std::byte{1}; }},
        {"a byte behind the configuration", refused,
         [](ForgedArea& area) {
             std::vector<std::byte> longer(area.contents(start).begin(), area.contents(start).end());
             longer.push_back(std::byte{0});
             area.put(start, longer);
         }},
        {"random numbers: 2", refused, [](ForgedArea& area) { byte_from_end(area, start, 2) = std::byte{2}; }},
        {"console: 255", refused, [](ForgedArea& area) { byte_from_end(area, start, 1) = std::byte{255}; }},
        {"vsock: 2", refused, [](ForgedArea& area) { byte_from_end(area, start, 4) = std::byte{2}; }},
        {"a console without a record", refused, [](ForgedArea& area) { byte_from_end(area, start, 1) = std::byte{1}; }},
        {"a kernel that is not UTF-8", good,
         [](ForgedArea& area) { change_start(area, [](StartSection& s) { s.config.kernel = "builtin:\xff\x1b"; }); }},
        {"a kernel with a NUL", refused,
         [](ForgedArea& area) { change_start(area, [](StartSection& s) { s.config.kernel[3] = '\0'; }); }},
        {"an initrd with a NUL", refused,
         [](ForgedArea& area) {
             change_start(area, [](StartSection& s) { s.config.initrds = {std::string("a\0b", 3)}; });
         }},
        {"a command line with a NUL", refused,
         [](ForgedArea& area) { change_start(area, [](StartSection& s) { s.config.cmdline.assign(1, '\0'); }); }},
        {"other memory", refused,
         [](ForgedArea& area) { change_start(area, [](StartSection& s) { s.config.memory_bytes *= 2; }); }},
        // State.
        {"records in another order", good,
         [](ForgedArea& area) { change_state(area, [](auto& records) { std::ranges::reverse(records); }); }},
        {"a record of another version", good,  // only its owner knows, at a restore
         [](ForgedArea& area) { change_state(area, [](auto& records) { records[2].version = 999; }); }},
        {"a record missing", refused,
         [](ForgedArea& area) { change_state(area, [](auto& records) { records.erase(records.begin() + 3); }); }},
        {"no records", refused, [](ForgedArea& area) { change_state(area, [](auto& records) { records.clear(); }); }},
        {"a record twice", refused,
         [](ForgedArea& area) { change_state(area, [](auto& records) { records.push_back(records[1]); }); }},
        {"a record of unknown kind", refused,
         [](ForgedArea& area) {
             change_state(area, [](auto& records) { records.push_back({RecordKind{777}, 1, 0, {}}); });
         }},
        {"a record of one vCPU too many", refused,
         [](ForgedArea& area) {
             change_state(area, [](auto& records) { records.push_back({RecordKind::vcpu, 1, 1, {}}); });
         }},
        {"a byte behind the records", refused,
         [](ForgedArea& area) {
             std::vector<std::byte> longer(area.contents(state).begin(), area.contents(state).end());
             longer.push_back(std::byte{0});
             area.put(state, longer);
         }},
        // Plan.
        {"a plan over pages with data", found, [](ForgedArea& area) { put_plan(area, {{kLow, 0, 512}}); }},
        {"an unaligned plan", refused, [](ForgedArea& area) { put_plan(area, {{kLow, 1, 511}}); }},
        {"a run of a block at an unaligned address", refused,
         [](ForgedArea& area) { put_plan(area, {{kVmGenId, 0, 512}}); }},
        {"a run twice", refused, [](ForgedArea& area) { put_plan(area, {{kLow, 0, 512}, {kLow, 0, 512}}); }},
        // Entries and data.
        {"reserved bits of an entry", found, [](ForgedArea& area) { put_entry(area, 9, 0x100); }},
        {"unknown class", found, [](ForgedArea& area) { put_entry(area, 9, 7); }},
        {"a page shares itself", found,
         [](ForgedArea& area) { put_entry(area, 1, PageEntry{PageClass::shared, 0, 1}.encode()); }},
        {"a page shares a page without data", found,
         [](ForgedArea& area) { put_entry(area, 1, PageEntry{PageClass::shared, 0, 0}.encode()); }},
        {"a page shares other data", found,
         [](ForgedArea& area) { put_entry(area, 100, PageEntry{PageClass::shared, 0, 1}.encode()); }},
        {"a page without data that is not zeros", found,
         [](ForgedArea& area) { area.contents(data, kLow)[9 * kPageSize] = std::byte{1}; }},
        {"another page", found, [](ForgedArea& area) { area.contents(data, kLow)[kPageSize] ^= std::byte{1}; }},
    };
    return all;
}

class Checks : public SnapshotTest {
protected:
    void SetUp() override {
        make_folder(std::filesystem::exists("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path());
        machine_.fill(kLow, 1, 1);
        machine_.fill(kLow, 100, 1);
        machine_.fill(kFirmware, 3, 1);
        std::memcpy(machine_.block(kLow).host() + 300 * kPageSize, machine_.block(kLow).host() + kPageSize, kPageSize);
        machine_.clear(kLow, 101);
        WriteOptions options = with_slots(1);
        options.metadata = R"({"a":1})";
        ASSERT_OK(write_snapshot(machine_, area(), options));
        ASSERT_OK(write_snapshot(machine_, area(), options));
    }
    [[nodiscard]] AreaPath forged(const Case& one) const {
        const AreaPath path = area(one.name);
        ForgedArea bad(area().path);
        one.forge(bad);
        bad.write(path.path);
        return path;
    }

    FakeMachine machine_{2ULL << 20};
};

TEST_F(Checks, RestoreInspectAndVerifyAgree) {
    for (const Case& one : cases()) {
        SCOPED_TRACE(one.name);
        const AreaPath path = forged(one);
        const auto restored = open_snapshot(path);
        EXPECT_EQ(restored.has_value(), one.wanted != Wanted::refused) << (restored ? "" : restored.error().message());
        const auto info = inspect_area(path);
        ASSERT_OK(info);
        EXPECT_EQ(info->problem.empty(), restored.has_value()) << info->problem;
        EXPECT_EQ(info->chosen.has_value(), restored.has_value());
        const auto verified = verify_area(path);
        EXPECT_EQ(verified && verified->fault_count == 0, one.wanted == Wanted::good);
        EXPECT_EQ(config_in(path).has_value(), restored.has_value());
    }
}

TEST_F(Checks, TheSecondReaderAgrees) {
    if (std::system("python3 -c 'pass' >/dev/null 2>&1") != 0) {
        GTEST_SKIP() << "python3 is not installed";
    }
    std::string command = "python3 " + source_folder() + "/tests/corruption/second_reader.py --verdicts";
    for (const Case& one : cases()) {
        command += " \"" + forged(one).path + "\"";
    }
    command += " >" + area("verdicts").path;
    ASSERT_EQ(std::system(command.c_str()), 0);
    std::istringstream verdicts(*read_file(area("verdicts").path, 1 << 20));
    for (const Case& one : cases()) {
        std::string verdict;
        ASSERT_TRUE(std::getline(verdicts, verdict));
        EXPECT_EQ(verdict == "good", one.wanted == Wanted::good) << one.name << ": " << verdict;
    }
}

// A restore does not need the metadata, so their damage does not keep a machine from coming back.
TEST_F(Checks, DamagedMetadataAreShownAsSuchAndRestored) {
    {
        ForgedArea area_bytes(area().path);
        const UniqueFd fd = *open_file(area().path, O_RDWR);
        const std::byte odd{0xFF};
        ASSERT_OK(write_all_at(fd.get(), std::span(&odd, 1), area_bytes.section(SectionKind::metadata).offset, "area"));
    }
    ASSERT_OK(open_snapshot(area()));
    const auto info = inspect_area(area());
    ASSERT_OK(info);
    EXPECT_EQ(info->problem, "");
    EXPECT_EQ(info->metadata, "");
    EXPECT_NE(info->metadata_problem.find("section metadata has a wrong checksum"), std::string::npos);
    EXPECT_NE(to_json(*info).find("\"metadata_problem\""), std::string::npos);
    EXPECT_NE(to_text(*info).find("metadata has a wrong checksum"), std::string::npos);
    EXPECT_EQ(verify_area(area())->fault_count, 1U);
    EXPECT_FALSE(read_metadata(area()).has_value());
}

}  // namespace
}  // namespace snapvm::test
