// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/population.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <vector>

#include "tests/support/child.h"
#include "tests/support/paths.h"
#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using Backing = MemoryBlock::Backing;
using test::fails;
using test::ok;

constexpr auto kOwn = Population::own;
constexpr auto kUntouched = Population::untouched;

std::vector<Population> scan(const MemoryBlock& block, std::uint64_t first, std::uint64_t count) {
    const auto scanner = PopulationScanner::open();
    EXPECT_TRUE(ok(scanner));
    // Filled with the wrong answer, so that a page the scan forgets is seen.
    std::vector<Population> out(count, static_cast<Population>(0xEE));
    EXPECT_TRUE(ok(scanner->scan(block, first, out)));
    return out;
}
std::vector<Population> scan(const MemoryBlock& block) { return scan(block, 0, block.spec().pages()); }

void touch(const MemoryBlock& block, std::uint64_t page) { block.bytes()[page * kPageSize + 100] = std::byte{1}; }
void read_from(const MemoryBlock& block, std::uint64_t page) {
    (void)*static_cast<volatile const std::byte*>(block.page(page).data());
}

// A file with data on a disk file system, as snapshots have; gone with the test.
class DiskFile {
public:
    explicit DiskFile(std::uint64_t pages) {
        std::string path = test::build_folder() + "/population-XXXXXX";
        fd_ = UniqueFd(::mkostemp(path.data(), O_CLOEXEC));
        EXPECT_TRUE(fd_.valid());
        ::unlink(path.c_str());
        for (std::uint64_t page = 0; page < pages; ++page) {
            const std::vector<std::byte> bytes(kPageSize, static_cast<std::byte>(page + 1));
            EXPECT_TRUE(ok(write_all_at(fd_.get(), bytes, page * kPageSize, "file")));
        }
        EXPECT_EQ(::fsync(fd_.get()), 0);
    }
    [[nodiscard]] int get() const { return fd_.get(); }

private:
    UniqueFd fd_;
};

MemoryBlock anonymous(std::uint64_t pages) {
    return *MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, pages * kPageSize}, PagePolicy::small_pages);
}

// The bits of Documentation/admin-guide/mm/pagemap.rst. Swapped pages are not resident: mincore
// would call them empty.
TEST(PagemapEntry, SaysWhatIsTheMachinesOwn) {
    constexpr std::uint64_t kPresent = 1ULL << 63;
    constexpr std::uint64_t kSwapped = 1ULL << 62;
    constexpr std::uint64_t kFile = 1ULL << 61;
    constexpr std::uint64_t kExclusive = 1ULL << 56;
    constexpr std::uint64_t kSoftDirty = 1ULL << 55;
    for (const Backing backing : {Backing::anonymous, Backing::snapshot}) {
        EXPECT_EQ(population_of_pagemap_entry(0, backing), kUntouched);
        EXPECT_EQ(population_of_pagemap_entry(kSoftDirty, backing), kUntouched);
        EXPECT_EQ(population_of_pagemap_entry(kPresent | kExclusive | 0x1234, backing), kOwn);
        EXPECT_EQ(population_of_pagemap_entry(kSwapped | 0x25, backing), kOwn);
        EXPECT_EQ(population_of_pagemap_entry(kSwapped | kSoftDirty | 0x25, backing), kOwn);
    }
    EXPECT_EQ(population_of_pagemap_entry(kPresent | kFile, Backing::snapshot), kUntouched);
    EXPECT_EQ(population_of_pagemap_entry(kPresent | kFile | kSoftDirty, Backing::snapshot), kUntouched);
    // Anonymous memory that is shared (with a child, by KSM) is still this machine's.
    EXPECT_EQ(population_of_pagemap_entry(kPresent | kFile, Backing::anonymous), kOwn);
}

TEST(Population, OfAnonymousMemoryIsWhatWasTouched) {
    const MemoryBlock block = anonymous(8);
    touch(block, 2);
    touch(block, 7);
    const std::vector<Population> expected = {kUntouched, kUntouched, kOwn,       kUntouched,
                                              kUntouched, kUntouched, kUntouched, kOwn};
    EXPECT_EQ(scan(block), expected);
}

// A page that was only read is the kernel's zero page: populated, and its contents decide.
TEST(Population, OfAPageThatWasOnlyReadIsOwn) {
    const MemoryBlock block = anonymous(2);
    read_from(block, 1);
    EXPECT_EQ(scan(block), (std::vector{kUntouched, kOwn}));
}

TEST(Population, OfAPageGivenBackIsUntouchedAgain) {
    const MemoryBlock block = anonymous(2);
    touch(block, 0);
    touch(block, 1);
    ASSERT_EQ(::madvise(block.host(), kPageSize, MADV_DONTNEED), 0);
    EXPECT_EQ(scan(block), (std::vector{kUntouched, kOwn}));
}

TEST(Population, ScansAnyPartAndRefusesMore) {
    const MemoryBlock block = anonymous(8);
    touch(block, 3);
    EXPECT_EQ(scan(block, 3, 1), std::vector{kOwn});
    EXPECT_EQ(scan(block, 2, 3), (std::vector{kUntouched, kOwn, kUntouched}));
    EXPECT_EQ(scan(block, 8, 0), std::vector<Population>{});
    const auto scanner = PopulationScanner::open();
    ASSERT_TRUE(ok(scanner));
    std::vector<Population> out(2);
    EXPECT_TRUE(fails(scanner->scan(block, 7, out), ErrorKind::invalid));
    EXPECT_TRUE(fails(scanner->scan(block, 9, {}), ErrorKind::invalid));
    EXPECT_TRUE(fails(scanner->scan(block, ~std::uint64_t{0}, out), ErrorKind::invalid));
}

// More pages than are read in one go, touched around the seam.
TEST(Population, OfALargeBlockHasNoSeams) {
    const MemoryBlock block = anonymous(9000);
    for (const std::uint64_t page : {0, 4095, 4096, 8191, 8192, 8999}) {
        touch(block, page);
    }
    const auto found = scan(block);
    std::vector<std::uint64_t> own;
    for (std::uint64_t page = 0; page < found.size(); ++page) {
        ASSERT_TRUE(found[page] == kOwn || found[page] == kUntouched);
        if (found[page] == kOwn) {
            own.push_back(page);
        }
    }
    EXPECT_EQ(own, (std::vector<std::uint64_t>{0, 4095, 4096, 8191, 8192, 8999}));
}

// A page may be in the file without being mapped here: another process wrote it.
TEST(Population, OfAMemfdIsWhatIsInTheFile) {
    const auto block = MemoryBlock::memfd({BlockId::ram_low, Gpa{0}, 8 * kPageSize});
    ASSERT_TRUE(ok(block));
    touch(*block, 1);
    const std::byte one{1};
    ASSERT_TRUE(ok(write_all_at(block->memfd_fd(), std::span(&one, 1), 5 * kPageSize + 7, "memfd")));
    const std::vector<Population> expected = {kUntouched, kOwn, kUntouched, kUntouched,
                                              kUntouched, kOwn, kUntouched, kUntouched};
    EXPECT_EQ(scan(*block), expected);
    EXPECT_EQ(scan(*block, 5, 2), (std::vector{kOwn, kUntouched}));
    EXPECT_EQ(scan(*block, 2, 2), (std::vector{kUntouched, kUntouched}));
    // Unmapped here, it is still in the file.
    ASSERT_EQ(::madvise(block->host(), block->spec().size, MADV_DONTNEED), 0);
    EXPECT_EQ(scan(*block), expected);
    ASSERT_EQ(::fallocate(block->memfd_fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kPageSize, kPageSize), 0);
    EXPECT_EQ(scan(*block, 1, 1), std::vector{kUntouched});
}

TEST(Population, OfASnapshotCountsWrittenPagesOnly) {
    const DiskFile file(8);
    const auto block =
        MemoryBlock::snapshot(*ReservedBlock::of({BlockId::ram_low, Gpa{0}, 8 * kPageSize}), file.get(), 0, nullptr);
    ASSERT_TRUE(ok(block));
    EXPECT_EQ(scan(*block), std::vector(8, kUntouched));
    for (std::uint64_t page = 0; page < 8; ++page) {
        read_from(*block, page);
    }
    EXPECT_EQ(scan(*block), std::vector(8, kUntouched));
    touch(*block, 4);
    std::vector<Population> expected(8, kUntouched);
    expected[4] = kOwn;
    EXPECT_EQ(scan(*block), expected);
}

// Not resident any more is not the same as written: such a page is still its origin's.
TEST(Population, OfASnapshotWhoseFilePagesWereDroppedIsStillItsOrigins) {
    const DiskFile file(8);
    const auto block =
        MemoryBlock::snapshot(*ReservedBlock::of({BlockId::ram_low, Gpa{0}, 8 * kPageSize}), file.get(), 0, nullptr);
    ASSERT_TRUE(ok(block));
    touch(*block, 2);
    read_from(*block, 5);
    ASSERT_EQ(::madvise(block->host() + 5 * kPageSize, kPageSize, MADV_PAGEOUT), 0);
    ASSERT_EQ(::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
    std::vector<Population> expected(8, kUntouched);
    expected[2] = kOwn;
    EXPECT_EQ(scan(*block), expected);
    EXPECT_EQ(block->page(5)[0], std::byte{6});
}

TEST(Population, OfAnOverlayIsAnonymousMemorys) {
    const DiskFile file(8);
    auto block =
        MemoryBlock::snapshot(*ReservedBlock::of({BlockId::ram_low, Gpa{0}, 8 * kPageSize}), file.get(), 0, nullptr);
    ASSERT_TRUE(ok(block));
    ASSERT_TRUE(ok(block->overlay_anonymous(2, 4)));
    EXPECT_EQ(scan(*block), std::vector(8, kUntouched));
    touch(*block, 3);
    EXPECT_EQ(scan(*block, 3, 1), std::vector{kOwn});
    EXPECT_EQ(scan(*block, 1, 1), std::vector{kUntouched});
}

TEST(Population, WithoutProcEveryPageIsReadAsIfItHadBeenTouched) {
    const MemoryBlock block = anonymous(4);
    touch(block, 1);
    const int code = test::in_child([&] {
        if (!test::refuse_call(SYS_openat, ENOENT)) {
            return 1;
        }
        const std::vector<Population> all = scan(block);
        return std::ranges::count(all, kOwn) == 4 ? 0 : 2;
    });
    EXPECT_EQ(code, 0) << "memory that counts as untouched would be saved as zeros";
}

}  // namespace
}  // namespace snapvm
