// SPDX-License-Identifier: Apache-2.0
// Tables of CPUID out of kernels that say how many entries there are, and out of those that do not.
#include "vmm/kvm/cpuid_reader.h"

#include <algorithm>
#include <functional>

#include "tests/support/result_matchers.h"

namespace snapvm::kvm {
namespace {

using test::fails;

std::vector<kvm_cpuid_entry2> entries_of(std::size_t count) {
    std::vector<kvm_cpuid_entry2> entries(count);
    for (std::size_t i = 0; i < count; ++i) {
        entries[i].function = static_cast<std::uint32_t>(i) + 1;
    }
    return entries;
}

// KVM_GET_CPUID2 as in Linux 6.1 (nent comes back as it was given) or as in later ones.
struct FakeKvm {
    std::vector<kvm_cpuid_entry2> entries;
    bool tells_count = true;
    std::vector<std::uint32_t> asked = {};

    Result<int> operator()(kvm_cpuid2* table) {
        asked.push_back(table->nent);
        if (table->nent < entries.size()) {
            return fail(Error::system("KVM_GET_CPUID2", "vCPU 0", E2BIG));
        }
        std::ranges::copy(entries, table->entries);
        if (tells_count) {
            table->nent = static_cast<std::uint32_t>(entries.size());
        }
        return 0;
    }
};

std::vector<std::uint32_t> functions_of(const Result<std::vector<kvm_cpuid_entry2>>& table) {
    std::vector<std::uint32_t> functions;
    for (const kvm_cpuid_entry2& entry : table.value()) {
        functions.push_back(entry.function);
    }
    return functions;
}

TEST(CpuidReader, AKernelThatLeavesTheCountAsItWasGivesNoZeros) {
    for (const bool tells_count : {false, true}) {
        FakeKvm kvm{.entries = entries_of(3), .tells_count = tells_count};
        EXPECT_EQ(functions_of(read_cpuid(3, std::ref(kvm))), (std::vector<std::uint32_t>{1, 2, 3})) << tells_count;
        EXPECT_EQ(kvm.asked, std::vector<std::uint32_t>{3});
    }
}

TEST(CpuidReader, AnEntryOfZerosThatWasSetIsKept) {
    FakeKvm kvm{.entries = entries_of(3), .tells_count = false};
    kvm.entries.back() = {};
    EXPECT_EQ(functions_of(read_cpuid(3, std::ref(kvm))), (std::vector<std::uint32_t>{1, 2, 0}));
}

TEST(CpuidReader, ATableThatWasNeverSetIsEmpty) {
    FakeKvm kvm{.entries = {}, .tells_count = false};
    EXPECT_TRUE(functions_of(read_cpuid(0, std::ref(kvm))).empty());
}

TEST(CpuidReader, MoreThanExpectedAreReadToo) {
    FakeKvm kvm{.entries = entries_of(300)};
    EXPECT_EQ(functions_of(read_cpuid(3, std::ref(kvm))).size(), 300U);
    EXPECT_EQ(kvm.asked, (std::vector<std::uint32_t>{3, 128, 256, 512}));
    EXPECT_EQ(functions_of(read_cpuid(0, std::ref(kvm))).size(), 300U);
}

TEST(CpuidReader, ErrorsAndEndlessTablesAreErrors) {
    FakeKvm endless{.entries = entries_of(5000)};
    EXPECT_TRUE(fails(read_cpuid(128, std::ref(endless)), ErrorKind::unsupported));
    int calls = 0;
    const auto broken = [&](kvm_cpuid2*) -> Result<int> {
        ++calls;
        return fail(Error::system("KVM_GET_CPUID2", "vCPU 0", EFAULT));
    };
    EXPECT_TRUE(fails(read_cpuid(128, broken), ErrorKind::system));
    EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace snapvm::kvm
