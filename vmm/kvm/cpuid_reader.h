// SPDX-License-Identifier: Apache-2.0
// Reads a CPUID table from KVM: a vCPU's (KVM_GET_CPUID2) or the supported one.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/kvm/abi.h"

namespace snapvm::kvm {

/// Returns the table that `call(kvm_cpuid2*)`, an ioctl with a Result<int>, fills in. `expected` is
/// the number of its entries if that is known, else 0. The first call has room for exactly that
/// number: Linux up to at least 6.1 leaves `nent` of KVM_GET_CPUID2 as it was given, and in a
/// larger table the entries after the last would look like zeros from KVM. A table with too little
/// room is an E2BIG, and a larger one is tried.
template <class Call>
Result<std::vector<kvm_cpuid_entry2>> read_cpuid(std::size_t expected, Call call) {
    constexpr std::size_t kMost = 4096;
    constexpr std::size_t kSecondTry = 128;
    for (std::size_t count = expected; count <= kMost; count = std::max(kSecondTry, count * 2)) {
        std::vector<std::byte> buffer(sizeof(kvm_cpuid2) + count * sizeof(kvm_cpuid_entry2));
        auto* table = reinterpret_cast<kvm_cpuid2*>(buffer.data());
        table->nent = static_cast<std::uint32_t>(count);
        const Result<int> got = call(table);
        if (got) {
            return std::vector<kvm_cpuid_entry2>(table->entries,
                                                 table->entries + std::min<std::size_t>(table->nent, count));
        }
        if (got.error().code() != E2BIG) {
            return fail(got.error());
        }
    }
    return fail(ErrorKind::unsupported, "KVM's CPUID table has more than 4096 entries");
}

}  // namespace snapvm::kvm
