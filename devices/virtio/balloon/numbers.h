// SPDX-License-Identifier: Apache-2.0
// Numbers of virtio 1.2, 5.5, that balloon.cc and requests.cc share.
#pragma once

#include <cstddef>
#include <cstdint>

namespace snapvm::virtio {

// Queue numbers, 5.5.2. All features that have queues are offered, and drivers use them together.
// So a driver that numbers only the queues it uses gets the same numbers.
enum BalloonQueue : std::size_t { kInflate, kDeflate, kStatistics, kHints, kReports, kBalloonQueues };

// Features, 5.5.3.
inline constexpr std::uint64_t kMustTellHost = 1ULL << 0;
inline constexpr std::uint64_t kStatisticsQueue = 1ULL << 1;
inline constexpr std::uint64_t kDeflateOnOom = 1ULL << 2;
inline constexpr std::uint64_t kFreePageHint = 1ULL << 3;
inline constexpr std::uint64_t kPagePoison = 1ULL << 4;
inline constexpr std::uint64_t kPageReporting = 1ULL << 5;

// Values of free_page_hint_cmd_id that are not a request, 5.5.6.5.
inline constexpr std::uint32_t kHintStop = 0;
inline constexpr std::uint32_t kHintDone = 1;

}  // namespace snapvm::virtio
