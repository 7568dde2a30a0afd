// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/image_lock.h"

#include <bit>
#include <cstdint>

#include "vmm/base/file_lock.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kUsed = 100;
constexpr std::uint64_t kForbidden = 200;
constexpr unsigned kAll = kConsistentRead | kWrite | kWriteUnchanged | kResize;

// Calls each(offset, size) for each run of bytes that stand for `permissions`: on a network file
// system every call is a message.
template <class Each>
Status for_bytes(std::uint64_t base, unsigned permissions, const Each& each) {
    while (permissions != 0) {
        const int first = std::countr_zero(permissions);
        const int count = std::countr_one(permissions >> first);
        TRY(each(base + static_cast<unsigned>(first), static_cast<std::uint64_t>(count)));
        permissions &= ~0U << (first + count);
    }
    return {};
}

Status unlock(int fd, ImageAccess access, const std::string& name) {
    const auto unlock_bytes = [&](std::uint64_t offset, std::uint64_t size) {
        return unlock_range(fd, offset, size, name);
    };
    TRY(for_bytes(kUsed, access.uses, unlock_bytes));
    return for_bytes(kForbidden, access.forbids, unlock_bytes);
}

}  // namespace

Status lock_image(int fd, ImageAccess access, const std::string& name, std::string_view who, std::string_view advice) {
    const auto take = [&](std::uint64_t offset, std::uint64_t size) {
        return lock_range(fd, /*exclusive=*/false, offset, size, name, who, advice);
    };
    // Others have shared locks, and only a test for an exclusive one sees them.
    const auto test = [&](std::uint64_t offset, std::uint64_t size) {
        return test_range(fd, /*exclusive=*/true, offset, size, name, who, advice);
    };
    const auto take_and_test = [&]() -> Status {
        TRY(for_bytes(kUsed, access.uses, take));
        TRY(for_bytes(kForbidden, access.forbids, take));
        TRY(for_bytes(kForbidden, access.uses, test));
        return for_bytes(kUsed, access.forbids, test);
    };
    Status locked = take_and_test();
    if (!locked) {
        (void)unlock(fd, {kAll, kAll}, name);
    }
    return locked;
}

Status share_image(int fd, const std::string& name) {
    return unlock(fd, {kAll & ~kImageReader.uses, kAll & ~kImageReader.forbids}, name);
}

}  // namespace snapvm
