// SPDX-License-Identifier: Apache-2.0
#include "snapshot/area/area_io.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "vmm/base/fd.h"
#include "vmm/base/try.h"
#include "vmm/memory/gpa.h"

namespace snapvm {
namespace {

// A device gets smaller ranges as zeros to write: a write-zeroes command of its own costs more than
// these bytes.
constexpr std::uint64_t kSmallZero = 64ULL << 10;
alignas(4096) constexpr std::array<std::byte, 64ULL << 10> kZeros{};

}  // namespace

std::string_view name_of(IoStep step) {
    switch (step) {
        case IoStep::superblock: return "superblock";
        case IoStep::section: return "section";
        case IoStep::pages: return "pages";
        case IoStep::zero: return "zero";
        case IoStep::flush: return "flush";
    }
    return "unknown";
}

Status AreaIo::write(IoStep step, std::span<const std::byte> data, std::uint64_t offset) {
    while (!data.empty()) {
        std::span<const std::byte> part = data;
        if (hook_) {
            const io::Fault fault = hook_({step, base_ + offset, data.size()});
            if (fault.error != 0) {
                return fail(Error::system("write", name_, fault.error));
            }
            part = data.first(fault.short_to == 0 ? data.size() : std::min<std::uint64_t>(fault.short_to, data.size()));
        }
        TRY(write_all_at(fd_, part, base_ + offset, name_));
        written_ += part.size();
        offset += part.size();
        data = data.subspan(part.size());
    }
    return {};
}

Status AreaIo::write_zeros(std::uint64_t offset, std::uint64_t size) {
    while (size > 0) {
        const auto part = std::span(kZeros).first(std::min<std::uint64_t>(size, kZeros.size()));
        TRY(write_all_at(fd_, part, base_ + offset, name_));
        written_ += part.size();
        offset += part.size();
        size -= part.size();
    }
    return {};
}

Status AreaIo::zero(std::uint64_t offset, std::uint64_t size) {
    if (size == 0) {
        return {};
    }
    if (hook_) {
        if (const io::Fault fault = hook_({IoStep::zero, base_ + offset, size}); fault.error != 0) {
            return fail(Error::system("fallocate", name_, fault.error));
        }
    }
    // A device zeroes whole sectors only.
    const std::uint64_t part = std::min(align_up(offset, kPageSize) - offset, size);
    TRY(write_zeros(offset, part));
    offset += part;
    size -= part;
    if (size == 0) {
        return {};
    }
    if (!can_deallocate_ || (device_ && size < kSmallZero)) {
        return write_zeros(offset, size);
    }
    const int mode = (device_ ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE) | FALLOC_FL_KEEP_SIZE;
    int result = 0;
    do {
        result = ::fallocate(fd_, mode, static_cast<off_t>(base_ + offset), static_cast<off_t>(size));
    } while (result != 0 && errno == EINTR);
    if (result == 0) {
        return {};
    }
    if (errno == EOPNOTSUPP || errno == ENOSYS || errno == ENODEV) {
        can_deallocate_ = false;
        return write_zeros(offset, size);
    }
    return fail(Error::system("fallocate", name_, errno));
}

Status AreaIo::flush() {
    if (hook_) {
        if (const io::Fault fault = hook_({IoStep::flush, 0, 0}); fault.error != 0) {
            return fail(Error::system("fdatasync", name_, fault.error));
        }
    }
    if (::fdatasync(fd_) != 0) {
        return fail(Error::system("fdatasync", name_, errno));
    }
    return {};
}

}  // namespace snapvm
