// SPDX-License-Identifier: Apache-2.0
// Numbers that a driver of a block device uses (virtio 1.2, 5.2.6), and what the tests' disks are.
#pragma once

#include <cstdint>

#include "tests/support/blk_rig.h"

namespace snapvm::test {

inline constexpr std::uint32_t kIn = 0;
inline constexpr std::uint32_t kOut = 1;
inline constexpr std::uint32_t kFlush = 4;
inline constexpr std::uint32_t kGetId = 8;
inline constexpr std::uint32_t kDiscard = 11;
inline constexpr std::uint32_t kWriteZeroes = 13;
inline constexpr int kOk = 0;
inline constexpr int kIoError = 1;
inline constexpr int kUnsupported = 2;
inline constexpr int kUntouched = 0xEE;
inline constexpr std::uint64_t kDiskSize = 1 << 20;
inline constexpr Gpa kData = BlkRig::kData;

}  // namespace snapvm::test
