// SPDX-License-Identifier: Apache-2.0
// Thousands of areas whose structures are changed at random and signed again: readers and the
// writer refuse or accept them, and leave nothing behind. If this crashes, the area is still in the
// test's folder.
#include <filesystem>
#include <fstream>
#include <random>

#include "snapshot/report/inspect.h"
#include "snapshot/report/verify.h"
#include "snapshot/restore/detach.h"
#include "tests/corruption/forged_area.h"

namespace snapvm::test {
namespace {

constexpr unsigned kAreas = 2000;
constexpr BlockId kLow = BlockId::ram_low;

/// Changes one thing of an area at a time.
class Mutator {
public:
    explicit Mutator(std::uint32_t seed) : random_(seed) {}

    void mutate(ForgedArea& area) {
        area.encode();
        for (std::uint64_t changes = 1 + below(3); changes > 0; --changes) {
            change(area);
        }
    }
    std::uint64_t below(std::uint64_t limit) {
        return std::uniform_int_distribution<std::uint64_t>(0, limit - 1)(random_);
    }

private:
    void change(ForgedArea& area) {
        switch (below(8)) {
            case 0: field(area.bytes, below(kSuperblockCopies) * kSuperblockSize + header_field()); break;
            case 1: field(area.bytes, row(area) + 4 * below(10)); break;
            case 2: swap_rows(area); break;
            case 3: field_of(area, SectionKind::start); break;
            case 4: field_of(area, SectionKind::plan); break;
            case 5: field_of(area, SectionKind::state); break;
            case 6: entry(area); break;
            default: byte(area); break;
        }
    }
    // The fields from the area's size to the number of sections.
    std::size_t header_field() { return 16 + 4 * below(25); }
    std::size_t row(ForgedArea& area) {
        return area.chosen * kSuperblockSize + kSuperblockHeaderSize + 40 * below(area.sb().sections.size() + 1);
    }
    void swap_rows(ForgedArea& area) {
        const std::size_t a = row(area);
        const std::size_t b = row(area);
        if (below(2) == 0) {
            std::swap_ranges(area.bytes.begin() + static_cast<std::ptrdiff_t>(a),
                             area.bytes.begin() + static_cast<std::ptrdiff_t>(a) + 40,
                             area.bytes.begin() + static_cast<std::ptrdiff_t>(b));
        } else {
            std::memmove(area.bytes.data() + a, area.bytes.data() + b, 40);
        }
    }
    void field_of(ForgedArea& area, SectionKind kind) {
        const Section& section = area.section(kind);
        field(area.bytes, section.offset + 4 * below(section.length / 4 + 1));
    }
    void entry(ForgedArea& area) {
        const auto words = area.contents(SectionKind::entries, below(4) == 0 ? BlockId::firmware : kLow);
        const std::uint64_t page = below(words.size() / 8);
        const std::uint64_t word = below(3) == 0 ? random_() : below(9) | below(600) << 16;
        std::memcpy(words.data() + page * 8, &word, sizeof word);
    }
    void byte(ForgedArea& area) {
        const std::uint64_t small = area.section(SectionKind::metadata).offset;
        area.bytes[below(small)] = static_cast<std::byte>(random_());
    }
    // Changes 4 or 8 bytes to a value near what they were, near a limit, or any.
    void field(std::vector<std::byte>& bytes, std::size_t at) {
        const std::size_t size = below(2) == 0 ? 4 : 8;
        std::uint64_t value = 0;
        std::memcpy(&value, bytes.data() + at, size);
        const std::uint64_t limits[] = {0,
                                        1,
                                        2,
                                        3,
                                        32,
                                        64,
                                        511,
                                        512,
                                        4096,
                                        8192,
                                        0x7FFFFFFF,
                                        0xFFFFFFFF,
                                        1ULL << 32,
                                        1ULL << 56,
                                        1ULL << 62,
                                        1ULL << 63,
                                        ~0ULL,
                                        ~4095ULL,
                                        bytes.size(),
                                        bytes.size() - 4096};
        switch (below(8)) {
            case 0: value += 1; break;
            case 1: value -= 1; break;
            case 2: value += 4096; break;
            case 3: value -= 4096; break;
            case 4: value ^= 1ULL << below(64); break;
            case 5: value = random_(); break;
            default: value = limits[below(std::size(limits))]; break;
        }
        std::memcpy(bytes.data() + at, &value, size);
    }

    std::mt19937_64 random_;
};

std::size_t open_descriptors() {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
        ++count;
    }
    return count;
}

// KiB of address space.
std::uint64_t address_space() {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
        if (word == "VmSize:") {
            std::uint64_t kib = 0;
            status >> kib;
            return kib;
        }
    }
    return 0;
}

std::size_t mappings_of(const std::string& folder) {
    std::ifstream maps("/proc/self/maps");
    std::size_t count = 0;
    for (std::string line; std::getline(maps, line);) {
        count += line.find(folder) != std::string::npos ? 1 : 0;
    }
    return count;
}

class MutatedAreas : public SnapshotTest {
protected:
    void SetUp() override {
        make_folder(std::filesystem::exists("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path());
        for (std::uint64_t page = 0; page < 20; ++page) {
            machine_.fill(kLow, page, 1);
        }
        std::memcpy(machine_.block(kLow).host() + 40 * kPageSize, machine_.block(kLow).host(), 20 * kPageSize);
        machine_.clear(kLow, 101);
        machine_.fill(BlockId::firmware, 3, 1);
        for (const std::uint32_t slots : {1U, 2U}) {
            WriteOptions options = with_slots(slots);
            options.metadata = R"({"a":1})";
            for (int i = 0; i < 2; ++i) {
                ASSERT_OK(write_snapshot(machine_, area("good" + std::to_string(slots)), options));
            }
        }
    }
    // Does with an area all that can be done with one.
    void use(const AreaPath& path) {
        for (const bool share : {false, true}) {
            auto restored = open_snapshot(path, {.share = share, .min_shared_bytes = kPageSize});
            accepted_ += restored ? 1 : 0;
            if (restored) {
                FakeMachine clone(*std::move(restored));
                for (const MemoryBlock& block : clone.memory().blocks()) {
                    for (std::uint64_t page = 0; page < block.spec().pages(); ++page) {
                        volatile std::byte first = block.page(page).front();
                        (void)first;
                    }
                }
                std::filesystem::remove(area("next").path);
                (void)write_snapshot(clone, area("next"), {});
                (void)detach_snapshot(clone, clone.mutable_memory());
            }
        }
        const auto info = inspect_area(path);
        if (info) {
            (void)to_text(*info);
            (void)to_json(*info);
        }
        const auto verified = verify_area(path);
        const bool good = verified && verified->fault_count == 0;
        good_ += good ? 1 : 0;
        EXPECT_TRUE(!good || (info && info->problem.empty())) << "good, and not restorable";
        (void)write_snapshot(machine_, path, {});
    }

    FakeMachine machine_{2ULL << 20};
    unsigned accepted_ = 0;
    unsigned good_ = 0;
};

TEST_F(MutatedAreas, DoNoHarm) {
    use(area("good1"));  // makes what is made once
    const ForgedArea seeds[] = {ForgedArea(area("good1").path), ForgedArea(area("good2").path)};
    const std::size_t descriptors = open_descriptors();
    const std::uint64_t space = address_space();
    Mutator mutator(18);
    for (unsigned i = 0; i < kAreas; ++i) {
        ForgedArea bad = seeds[i % 2];
        mutator.mutate(bad);
        if (mutator.below(50) == 0) {
            bad.bytes.resize(mutator.below(bad.bytes.size()) | 1);
        }
        bad.write(area("area").path);
        use(area("area"));
        ASSERT_FALSE(HasFailure()) << "area " << i;
    }
    // Most are refused, and not all: the mutations get past the first check.
    EXPECT_GT(accepted_, kAreas / 20);
    EXPECT_LT(good_, kAreas / 2);
    EXPECT_EQ(open_descriptors(), descriptors);
    EXPECT_EQ(mappings_of(folder_.string()), 0U);
    // One block of each area left mapped would be 2,000 times 2 MiB.
    if (SNAPVM_SANITIZED == 0) {  // a sanitizer keeps freed memory
        EXPECT_LT(address_space(), space + (256U << 10));
    }
}

}  // namespace
}  // namespace snapvm::test
