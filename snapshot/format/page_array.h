// SPDX-License-Identifier: Apache-2.0
// One value for each page of a block. Takes memory only for the parts that are used.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include "vmm/base/error.h"
#include "vmm/memory/gpa.h"
#include "vmm/memory/mapping.h"

namespace snapvm {

/// Each element is `T{}`, with all bytes zero, until it is set. Elements that are never touched
/// cost neither memory nor time.
template <class T>
    requires std::is_trivially_copyable_v<T>
class PageArray {
public:
    PageArray() = default;
    static Result<PageArray> of(std::uint64_t pages) {
        auto mapping =
            Mapping::anonymous(align_up(std::max<std::uint64_t>(pages * sizeof(T), 1), kPageSize), kPageSize);
        if (!mapping) {
            return fail(std::move(mapping).error());
        }
        return PageArray(pages, *std::move(mapping));
    }
    [[nodiscard]] std::uint64_t pages() const { return pages_; }
    [[nodiscard]] T& operator[](std::uint64_t page) { return all()[page]; }
    [[nodiscard]] const T& operator[](std::uint64_t page) const { return all()[page]; }
    [[nodiscard]] std::span<T> all() const { return {reinterpret_cast<T*>(mapping_.data()), pages_}; }

private:
    PageArray(std::uint64_t pages, Mapping mapping) : pages_(pages), mapping_(std::move(mapping)) {}
    std::uint64_t pages_ = 0;
    Mapping mapping_;
};

}  // namespace snapvm
