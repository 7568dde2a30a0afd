// SPDX-License-Identifier: Apache-2.0
// Which class each page of a frozen machine has (design.md, "Page classes"), and its checksum.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "snapshot/page_entry.h"
#include "vmm/base/error.h"
#include "vmm/memory/block.h"
#include "vmm/memory/population.h"

namespace snapvm {

/// Classifies block after block, a range at a time, without populating anything: pages never touched are not read, and those that a
/// restored machine never wrote keep the class and checksum that its snapshot recorded. So damage to the old snapshot's data is
/// carried along with the old checksum, and found, rather than given a new one.
class Classifier {
public:
    explicit Classifier(PopulationScanner scanner) : scanner_(std::move(scanner)) {}

    /// Fills `out` for pages `first` and on. Classes shared and swapped are not given out yet.
    Status classify(const MemoryBlock& block, std::uint64_t first, std::span<PageEntry> out);

private:
    PopulationScanner scanner_;
    std::vector<Population> population_;
    std::vector<PageOrigin::Entry> origin_;
};

}  // namespace snapvm
