// SPDX-License-Identifier: Apache-2.0
// Joins adjacent pages into runs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "vmm/base/error.h"

namespace snapvm {

/// Joins adjacent pages and passes each finished run to `emit(first, count)`, which returns a
/// Status. A run ends if the next page is not adjacent, if it has `max` pages, and with flush().
template <class Emit>
class RunJoiner {
public:
    explicit RunJoiner(Emit emit, std::uint64_t max = std::numeric_limits<std::uint64_t>::max())
        : emit_(std::move(emit)), max_(max) {}

    Status add(std::uint64_t page) {
        if (count_ > 0 && page == first_ + count_ && count_ < max_) {
            ++count_;
            return {};
        }
        Status status = flush();
        first_ = page;
        count_ = 1;
        return status;
    }
    Status flush() {
        if (count_ == 0) {
            return {};
        }
        const std::uint64_t count = count_;
        count_ = 0;
        return emit_(first_, count);
    }

private:
    Emit emit_;
    std::uint64_t max_;
    std::uint64_t first_ = 0;
    std::uint64_t count_ = 0;
};

}  // namespace snapvm
