// SPDX-License-Identifier: Apache-2.0
#include "vmm/bus/bus.h"

#include <algorithm>
#include <utility>

namespace snapvm {

Status Bus::add(std::uint64_t base, std::uint64_t size, BusDevice& device, std::string name) {
    if (size == 0 || base >= limit_ || size > limit_ - base) {
        return fail(ErrorKind::invalid, "bus range of " + name + " is empty or beyond the bus");
    }
    const auto after = std::ranges::upper_bound(ranges_, base, {}, &Range::base);
    if (after != ranges_.end() && base + size > after->base) {
        return fail(ErrorKind::invalid, "bus range of " + name + " overlaps that of " + after->name);
    }
    if (after != ranges_.begin()) {
        const Range& before = *std::prev(after);
        if (before.base + before.size > base) {
            return fail(ErrorKind::invalid, "bus range of " + name + " overlaps that of " + before.name);
        }
    }
    ranges_.insert(after, Range{base, size, &device, std::move(name)});
    return {};
}

const Bus::Range* Bus::find(std::uint64_t address, std::size_t size) const {
    const auto after = std::ranges::upper_bound(ranges_, address, {}, &Range::base);
    if (after == ranges_.begin()) {
        return nullptr;
    }
    const Range& range = *std::prev(after);
    const std::uint64_t offset = address - range.base;
    return offset < range.size && size <= range.size - offset ? &range : nullptr;
}

void Bus::read(std::uint64_t address, std::span<std::byte> data) const {
    if (const Range* range = find(address, data.size()); range != nullptr) {
        range->device->read(address - range->base, data);
    } else {
        std::ranges::fill(data, std::byte{0xFF});
    }
}

void Bus::write(std::uint64_t address, std::span<const std::byte> data) const {
    if (const Range* range = find(address, data.size()); range != nullptr) {
        range->device->write(address - range->base, data);
    }
}

}  // namespace snapvm
