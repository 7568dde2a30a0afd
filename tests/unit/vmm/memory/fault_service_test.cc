// SPDX-License-Identifier: Apache-2.0
// Several uses of one userfaultfd: write protection, and a second one that brings pages when they
// are first touched, as a lazy restore would.
#include "vmm/memory/fault_service.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "tests/support/result_matchers.h"
#include "tests/unit/vmm/memory/fault_rig.h"
#include "vmm/base/try.h"

namespace snapvm::test {
namespace {

std::size_t entries_of(const char* folder) {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

TEST_F(FaultServiceTest, CostsNothingWithoutAUse) {
    const std::size_t descriptors = entries_of("/proc/self/fd");
    const std::size_t threads = entries_of("/proc/self/task");
    TestUse first(*memory_, pass);
    TestUse second(*memory_, pass);
    ASSERT_TRUE(ok(first.use.begin(protect_all())));
    EXPECT_EQ(entries_of("/proc/self/task"), threads + 1);
    const std::size_t opened = entries_of("/proc/self/fd");
    EXPECT_GT(opened, descriptors);
    ASSERT_TRUE(ok(second.use.begin(missing({{0, 0, 8}}))));
    EXPECT_EQ(entries_of("/proc/self/fd"), opened) << "all uses share one userfaultfd";
    EXPECT_EQ(entries_of("/proc/self/task"), threads + 1) << "and one thread";
    first.use.end();
    second.use.end();
    EXPECT_EQ(entries_of("/proc/self/fd"), descriptors);
    EXPECT_TRUE(eventually([&] { return entries_of("/proc/self/task") == threads; }));
}

TEST_F(FaultServiceTest, EachUseSeesItsOwnFaults) {
    populate(0, 8);
    TestUse protect(*memory_, let_write);
    TestUse lazy(*memory_, bring);
    ASSERT_TRUE(ok(protect.use.begin(protect_all())));
    ASSERT_TRUE(ok(protect.use.protect({0, 0, 8})));
    ASSERT_TRUE(ok(lazy.use.begin(missing({{0, 0, kPages}}))));

    EXPECT_EQ(read(at(3)), contents_of(3)) << "a read waits for nobody";
    EXPECT_EQ(protect.asked() + lazy.asked(), 0U);
    EXPECT_EQ(read(at(600) + 17), contents_of(600));
    EXPECT_EQ(lazy.pages(FaultKind::missing), (std::vector<std::uint64_t>{600}));
    EXPECT_EQ(protect.asked(), 0U);
    write(at(3), std::byte{0});
    EXPECT_EQ(protect.pages(FaultKind::write_protect), (std::vector<std::uint64_t>{3}));
    EXPECT_EQ(lazy.asked(), 1U);
    EXPECT_EQ(read(at(3) + 1), contents_of(3));

    // A page that arrives where pages are protected is protected, too.
    write(at(601), std::byte{0});
    EXPECT_EQ(lazy.pages(FaultKind::missing), (std::vector<std::uint64_t>{600, 601}));
    EXPECT_EQ(protect.pages(FaultKind::write_protect), (std::vector<std::uint64_t>{3, 601}));
    EXPECT_EQ(read(at(601)), std::byte{0});
    EXPECT_EQ(read(at(601) + 1), contents_of(601));
    // The block that only one of them has registered.
    write(at(5, 1), std::byte{9});
    EXPECT_EQ(lazy.asked(), 2U);
}

TEST_F(FaultServiceTest, ProtectionOutlivesTheBeginAndTheEndOfAnotherUse) {
    populate(0, 8);
    TestUse protect(*memory_, let_write);
    TestUse lazy(*memory_, bring);
    ASSERT_TRUE(ok(protect.use.begin(protect_all())));
    ASSERT_TRUE(ok(protect.use.protect({0, 0, 8})));
    ASSERT_TRUE(ok(lazy.use.begin(missing({{0, 4, 100}}))));
    lazy.use.end();
    for (const std::uint64_t page : {std::uint64_t{2}, std::uint64_t{5}}) {
        write(at(page), std::byte{0});
    }
    EXPECT_EQ(protect.pages(FaultKind::write_protect), (std::vector<std::uint64_t>{2, 5}));
    // The range is still registered for missing faults: the service answers them as the kernel
    // would.
    EXPECT_EQ(read(at(50)), std::byte{0});
    write(at(51), std::byte{1});
    EXPECT_EQ(read(at(51)), std::byte{1});
    EXPECT_EQ(lazy.asked(), 0U);
}

TEST_F(FaultServiceTest, PagesStayMissingWhenProtectionEnds) {
    populate(0, 8);
    TestUse protect(*memory_, leave);
    TestUse lazy(*memory_, bring);
    ASSERT_TRUE(ok(lazy.use.begin(missing({{0, 0, kPages}}))));
    ASSERT_TRUE(ok(protect.use.begin(protect_all())));
    ASSERT_TRUE(ok(protect.use.protect({0, 0, 8})));
    Toucher held([&] { write(at(1), std::byte{0}); });
    ASSERT_TRUE(eventually([&] { return protect.asked() == 1; }));
    EXPECT_FALSE(held.done());
    protect.use.end();
    EXPECT_TRUE(eventually([&] { return held.done(); }));
    write(at(2), std::byte{0});  // is not held
    write(at(700), std::byte{0});
    EXPECT_EQ(lazy.pages(FaultKind::missing), (std::vector<std::uint64_t>{700}));
    EXPECT_EQ(read(at(700) + 1), contents_of(700));
    // The pages are protected no more, as a use that begins in their place would see.
    ASSERT_TRUE(ok(protect.use.begin(protect_all())));
    write(at(3), std::byte{0});
    EXPECT_EQ(protect.pages(FaultKind::write_protect), (std::vector<std::uint64_t>{1}));
}

// One call of the kernel takes no pages of two mappings, and the registrations have split this one.
TEST_F(FaultServiceTest, FillsPagesThatAreRegisteredInDifferentWays) {
    TestUse protect(*memory_, let_write);
    TestUse lazy(*memory_, bring);
    FaultUseSpec low = protect_all();
    low.ranges = {{0, 0, 8}};
    ASSERT_TRUE(ok(protect.use.begin(low)));
    ASSERT_TRUE(ok(lazy.use.begin(missing({{0, 0, kPages}}))));
    EXPECT_EQ(read(at(6)), contents_of(6));  // is there already
    std::vector<std::byte> data;
    for (std::uint64_t page = 4; page < 12; ++page) {
        data.resize((page - 3) * kPageSize, contents_of(page));
    }
    ASSERT_TRUE(ok(lazy.use.fill({0, 4, 8}, data)));
    for (std::uint64_t page = 4; page < 12; ++page) {
        EXPECT_EQ(read(at(page) + 1), contents_of(page));
        write(at(page), std::byte{0});
    }
    EXPECT_EQ(protect.pages(FaultKind::write_protect), (std::vector<std::uint64_t>{4, 5, 6, 7}));
    EXPECT_EQ(lazy.pages(FaultKind::missing), (std::vector<std::uint64_t>{6}));
    EXPECT_EQ(memory_->faults().counters().find("answered"), 5U);
}

TEST_F(FaultServiceTest, TheEndOfAUseReleasesItsThreads) {
    populate(0, 8);
    TestUse protect(*memory_, leave);
    TestUse lazy(*memory_, leave);
    TestUse elsewhere(*memory_, leave);
    FaultUseSpec low = protect_all();
    low.ranges = {{0, 0, 8}};
    ASSERT_TRUE(ok(elsewhere.use.begin(missing({{1, 0, 64}}))));
    ASSERT_TRUE(ok(protect.use.begin(low)));
    ASSERT_TRUE(ok(lazy.use.begin(missing({{0, 8, 100}}))));
    ASSERT_TRUE(ok(protect.use.protect({0, 0, 8})));
    Toucher writer([&] { write(at(4), std::byte{7}); });
    Toucher reader([&] { read(at(10)); });
    Toucher other([&] { read(at(1, 1)); });
    ASSERT_TRUE(writer.waits());
    ASSERT_TRUE(reader.waits());
    ASSERT_TRUE(other.waits());
    protect.use.end();
    EXPECT_TRUE(eventually([&] { return writer.done(); }));
    EXPECT_FALSE(reader.done());
    lazy.use.end();
    EXPECT_TRUE(eventually([&] { return reader.done(); }));
    EXPECT_FALSE(other.done());
    memory_->end_faults();
    EXPECT_TRUE(eventually([&] { return other.done(); }));
}

TEST_F(FaultServiceTest, AFaultThatIsLeftForLaterHoldsUpNoOther) {
    populate(0, 8);
    TestUse protect(*memory_, leave);
    TestUse lazy(*memory_, [](TestUse& self, const Fault& fault) {
        return fault.page == 10 ? leave(self, fault) : bring(self, fault);
    });
    ASSERT_TRUE(ok(protect.use.begin(protect_all())));
    ASSERT_TRUE(ok(lazy.use.begin(missing({{0, 0, kPages}}))));
    ASSERT_TRUE(ok(protect.use.protect({0, 0, 8})));
    Toucher writer([&] { write(at(4), std::byte{0}); });
    Toucher reader([&] { EXPECT_EQ(read(at(10)), contents_of(10)); });
    ASSERT_TRUE(writer.waits());
    ASSERT_TRUE(reader.waits());
    for (std::uint64_t page = 100; page < 120; ++page) {
        EXPECT_EQ(read(at(page)), contents_of(page));
    }
    EXPECT_FALSE(writer.done());
    EXPECT_FALSE(reader.done());
    EXPECT_EQ(read(at(4)), contents_of(4));
    ASSERT_TRUE(ok(lazy.use.fill({0, 9, 3}, std::vector<std::byte>(3 * kPageSize, contents_of(10)))));
    EXPECT_TRUE(eventually([&] { return reader.done(); }));
    EXPECT_FALSE(writer.done());
    ASSERT_TRUE(ok(protect.use.release({0, 0, 8})));
    EXPECT_TRUE(eventually([&] { return writer.done(); }));
}

// Each page is saved as it was when it was protected or arrived, before any of the writers changes
// it, and no write is lost.
TEST_F(FaultServiceTest, ManyWritersAtOnce) {
    constexpr std::uint64_t kWriters = 6;
    constexpr std::uint64_t kUsed = 600;
    populate(0, kUsed / 2);
    std::vector<std::vector<std::byte>> saved(kUsed);
    TestUse protect(*memory_, [&](TestUse& self, const Fault& fault) {
        if (saved[fault.page].empty()) {
            saved[fault.page].assign(at(fault.page), at(fault.page) + kPageSize);
        }
        return let_write(self, fault);
    });
    TestUse lazy(*memory_, bring);
    ASSERT_TRUE(ok(protect.use.begin(protect_all())));
    ASSERT_TRUE(ok(lazy.use.begin(missing({{0, 0, kPages}}, 1))));
    ASSERT_TRUE(ok(protect.use.protect({0, 0, kUsed})));
    {
        std::vector<std::unique_ptr<Toucher>> writers;
        for (std::uint64_t writer = 0; writer < kWriters; ++writer) {
            writers.push_back(std::make_unique<Toucher>([this, writer] {
                for (std::uint64_t i = 0; i < kUsed; ++i) {
                    write(at((i * 7 + writer * 31) % kUsed) + writer, std::byte{255});
                }
            }));
        }
        for (const auto& writer : writers) {
            ASSERT_TRUE(eventually([&] { return writer->done(); }));
        }
    }
    protect.use.end();
    lazy.use.end();
    for (std::uint64_t page = 0; page < kUsed; ++page) {
        ASSERT_EQ(saved[page], arriving(page)) << page;
        for (std::uint64_t i = 0; i < kPageSize; ++i) {
            ASSERT_EQ(read(at(page) + i), i < kWriters ? std::byte{255} : contents_of(page)) << page;
        }
    }
    for (const std::uint64_t page : lazy.pages(FaultKind::missing)) {
        EXPECT_GE(page, kUsed / 2);
    }
}

TEST_F(FaultServiceTest, ItsEndReleasesEveryThread) {
    for (const bool destroyed : {false, true}) {
        memory_ = make_memory();
        populate(0, 8);
        TestUse protect(*memory_, leave);
        TestUse lazy(*memory_, leave);
        ASSERT_TRUE(ok(protect.use.begin(protect_all())));
        ASSERT_TRUE(ok(lazy.use.begin(missing({{0, 0, kPages}}))));
        ASSERT_TRUE(ok(protect.use.protect({0, 0, 8})));
        Toucher writer([&] { write(at(4), std::byte{7}); });
        Toucher reader([&] { EXPECT_EQ(read(at(10)), std::byte{0}); });
        ASSERT_TRUE(writer.waits());
        ASSERT_TRUE(reader.waits());
        memory_->end_faults();
        EXPECT_TRUE(eventually([&] { return writer.done() && reader.done(); }));
        EXPECT_EQ(read(at(4)), std::byte{7});
        EXPECT_EQ(protect.failures() + lazy.failures(), 0);
        EXPECT_FALSE(ok(protect.use.protect({0, 0, 8}))) << "nothing is registered any more";
        TestUse late(*memory_, leave);
        EXPECT_TRUE(fails(late.use.begin(protect_all()), ErrorKind::busy));
        if (destroyed) {
            memory_.reset();  // before its uses
        }
    }
}

TEST_F(FaultServiceTest, AnErrorOfAHandlerEndsItsUseAlone) {
    populate(0, 8);
    std::atomic<bool> broken = true;
    TestUse protect(*memory_, [&](TestUse& self, const Fault& fault) -> Result<bool> {
        if (broken) {
            return fail(ErrorKind::invalid, "broken");
        }
        return let_write(self, fault);
    });
    TestUse lazy(*memory_, bring);
    ASSERT_TRUE(ok(protect.use.begin(protect_all())));
    ASSERT_TRUE(ok(lazy.use.begin(missing({{0, 0, kPages}}))));
    ASSERT_TRUE(ok(protect.use.protect({0, 0, 8})));
    write(at(4), std::byte{7});
    write(at(5), std::byte{7});
    EXPECT_EQ(protect.failures(), 1);
    EXPECT_EQ(protect.asked(), 1U);
    EXPECT_EQ(read(at(20)), contents_of(20));
    broken = false;
    ASSERT_TRUE(ok(protect.use.begin(protect_all())));
    ASSERT_TRUE(ok(protect.use.protect({0, 0, 8})));
    write(at(4), std::byte{8});
    EXPECT_EQ(protect.asked(), 2U);
    // The last use fails, and the thread ends with it.
    lazy.use.end();
    broken = true;
    write(at(5), std::byte{8});
    EXPECT_EQ(protect.failures(), 2);
    broken = false;
    ASSERT_TRUE(ok(protect.use.begin(protect_all())));
    ASSERT_TRUE(ok(protect.use.protect({0, 0, 8})));
    write(at(5), std::byte{9});
    EXPECT_EQ(protect.asked(), 4U);
}

// The thread cannot read faults any more.
TEST_F(FaultServiceTest, ADescriptorThatFailsEndsAllUses) {
    populate(0, 8);
    TestUse protect(*memory_, leave);
    TestUse lazy(*memory_, leave);
    ASSERT_TRUE(ok(protect.use.begin(protect_all())));
    ASSERT_TRUE(ok(lazy.use.begin(missing({{0, 0, kPages}}))));
    ASSERT_TRUE(ok(protect.use.protect({0, 0, 8})));
    int userfaultfd = -1;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
        std::error_code gone;
        if (std::filesystem::read_symlink(entry, gone).string().find("[userfaultfd]") != std::string::npos) {
            userfaultfd = std::stoi(entry.path().filename());
        }
    }
    ASSERT_GE(userfaultfd, 0);
    const UniqueFd folder = need(open_file("/", O_RDONLY | O_DIRECTORY));
    ASSERT_EQ(::dup3(folder.get(), userfaultfd, O_CLOEXEC), userfaultfd);
    Toucher writer([&] { write(at(4), std::byte{7}); });
    Toucher reader([&] { read(at(10)); });
    EXPECT_TRUE(eventually([&] { return writer.done() && reader.done(); }));
    EXPECT_TRUE(eventually([&] { return protect.failures() == 1 && lazy.failures() == 1; }));
    EXPECT_EQ(read(at(4)), std::byte{7});
    ASSERT_TRUE(ok(lazy.use.begin(missing({{0, 0, kPages}}))));
}

TEST_F(FaultServiceTest, UsesOfOnePlaceAreAskedInTheirOrder) {
    TestUse swap(*memory_, [](TestUse& self, const Fault& fault) {
        return fault.page < 8 ? bring(self, fault) : pass(self, fault);
    });
    TestUse lazy(*memory_, [](TestUse& self, const Fault& fault) {
        return fault.page < 16 ? bring(self, fault) : pass(self, fault);
    });
    ASSERT_TRUE(ok(lazy.use.begin(missing({{0, 0, kPages}}, 5))));
    ASSERT_TRUE(ok(swap.use.begin(missing({{0, 0, kPages}}, 2))));
    EXPECT_EQ(read(at(3)), contents_of(3));
    EXPECT_EQ(read(at(12)), contents_of(12));
    EXPECT_EQ(read(at(40)), std::byte{0}) << "none has it: it is memory like any other";
    EXPECT_EQ(swap.pages(FaultKind::missing), (std::vector<std::uint64_t>{3, 12, 40}));
    EXPECT_EQ(lazy.pages(FaultKind::missing), (std::vector<std::uint64_t>{12, 40}));
}

TEST_F(FaultServiceTest, OfSeveralFaultsTheLowestOrderIsAnsweredFirst) {
    populate(0, 8);
    std::atomic<bool> entered = false;
    std::atomic<bool> go_on = false;
    std::vector<std::uint64_t> order;  // the handlers run on one thread
    TestUse protect(*memory_, [&](TestUse& self, const Fault& fault) {
        entered = true;
        EXPECT_TRUE(eventually([&] { return go_on.load(); }));
        order.push_back(fault.page);
        return let_write(self, fault);
    });
    TestUse lazy(*memory_, [&](TestUse& self, const Fault& fault) {
        order.push_back(fault.page);
        return bring(self, fault);
    });
    FaultUseSpec later = protect_all();
    later.order = 1;
    ASSERT_TRUE(ok(protect.use.begin(later)));
    ASSERT_TRUE(ok(lazy.use.begin(missing({{0, 0, kPages}}))));
    ASSERT_TRUE(ok(protect.use.protect({0, 0, 8})));
    {
        Toucher first([&] { write(at(1), std::byte{0}); });
        ASSERT_TRUE(eventually([&] { return entered.load(); }));
        Toucher second([&] { write(at(2), std::byte{0}); });
        EXPECT_TRUE(second.waits());
        Toucher third([&] { read(at(30)); });
        EXPECT_TRUE(third.waits());
        go_on = true;
    }
    // The end of the last use joins the handlers' thread.
    protect.use.end();
    lazy.use.end();
    EXPECT_EQ(order, (std::vector<std::uint64_t>{1, 30, 2}));
}

TEST_F(FaultServiceTest, PagesOfAMemfdAreMappedAfterAMinorFault) {
    std::vector<MemoryBlock> blocks;
    blocks.push_back(need(MemoryBlock::memfd({BlockId::ram_low, Gpa{0}, 16 * kPageSize})));
    memory_ = need(GuestMemory::of(std::move(blocks)));
    const int memfd = memory_->blocks().front().memfd_fd();
    ASSERT_TRUE(ok(write_all_at(memfd, arriving(3), 3 * kPageSize, "memfd")));
    TestUse shared(*memory_, [](TestUse& self, const Fault& fault) -> Result<bool> {
        TRY(self.use.map_present({fault.block, fault.page, 1}));
        return true;
    });
    const FaultUseSpec spec{.kinds = FaultKind::minor, .features = UFFD_FEATURE_MINOR_SHMEM, .ranges = {{0, 0, 16}}};
    if (const Status begun = shared.use.begin(spec); !begun) {
        GTEST_SKIP() << "no minor faults here: " << begun.error().message();
    }
    EXPECT_EQ(read(at(3)), contents_of(3));
    EXPECT_EQ(shared.pages(FaultKind::minor), (std::vector<std::uint64_t>{3}));
    shared.use.end();
}

TEST_F(FaultServiceTest, RefusesWhatCannotBe) {
    TestUse first(*memory_, pass);
    TestUse second(*memory_, pass);
    EXPECT_TRUE(fails(first.use.begin(missing({{0, kPages - 1, 2}})), ErrorKind::invalid, "outside"));
    EXPECT_TRUE(fails(first.use.begin(missing({{2, 0, 1}})), ErrorKind::invalid, "outside"));
    EXPECT_TRUE(fails(first.use.begin(missing({{0, ~0ULL, 2}})), ErrorKind::invalid, "outside"));
    ASSERT_TRUE(ok(first.use.begin(protect_all())));
    EXPECT_TRUE(fails(second.use.begin(protect_all()), ErrorKind::busy, "another use"));
    FaultUseSpec unpopulated = missing({{0, 0, 8}});
    unpopulated.features |= kUffdProtectsUnpopulated;
    hide_userfaultfd_features(kUffdProtectsUnpopulated);
    first.use.end();
    EXPECT_TRUE(fails(second.use.begin(unpopulated), ErrorKind::unsupported, "UFFDIO_API"));
    ASSERT_TRUE(ok(first.use.begin(protect_all())));
    EXPECT_TRUE(fails(second.use.begin(unpopulated), ErrorKind::unsupported, "UFFDIO_API"));
    hide_userfaultfd_features(0);
    first.use.end();
    ASSERT_TRUE(ok(first.use.begin(protect_all())));
    const Status refused = second.use.begin(unpopulated);
    EXPECT_TRUE(fails(refused, ErrorKind::busy, "feature") || fails(refused, ErrorKind::unsupported, "UFFDIO_API"));
}

// The kernel refuses the second block. Nothing of the first stays registered.
TEST_F(FaultServiceTest, ABeginThatFailsLeavesNothing) {
    std::vector<MemoryBlock> blocks;
    blocks.push_back(need(MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, 8 * kPageSize}, PagePolicy::small_pages)));
    const UniqueFd file = need(open_file("/proc/self/exe", O_RDONLY));
    blocks.push_back(need(MemoryBlock::snapshot(*ReservedBlock::of({BlockId::ram_high, Gpa{1ULL << 32}, kPageSize}),
                                                file.get(), 0, nullptr)));
    memory_ = need(GuestMemory::of(std::move(blocks)));
    populate(0, 8);
    const std::size_t descriptors = entries_of("/proc/self/fd");
    TestUse lazy(*memory_, bring);
    EXPECT_TRUE(fails(lazy.use.begin(missing({{0, 0, 8}, {1, 0, 1}})), ErrorKind::system, "UFFDIO_REGISTER"));
    EXPECT_EQ(entries_of("/proc/self/fd"), descriptors);
    // The same while another use has the first block.
    TestUse protect(*memory_, let_write);
    FaultUseSpec low = protect_all();
    low.ranges = {{0, 0, 8}};
    ASSERT_TRUE(ok(protect.use.begin(low)));
    ASSERT_TRUE(ok(protect.use.protect({0, 0, 8})));
    EXPECT_TRUE(fails(lazy.use.begin(missing({{0, 0, 8}, {1, 0, 1}})), ErrorKind::system, "UFFDIO_REGISTER"));
    write(at(2), std::byte{0});
    EXPECT_EQ(protect.pages(FaultKind::write_protect), (std::vector<std::uint64_t>{2}));
    EXPECT_EQ(lazy.asked(), 0U);
    protect.use.end();
    ASSERT_TRUE(ok(protect.use.begin(low)));
    EXPECT_TRUE(ok(protect.use.protect({0, 0, 8})));
}

}  // namespace
}  // namespace snapvm::test
