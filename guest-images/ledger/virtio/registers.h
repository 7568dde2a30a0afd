// SPDX-License-Identifier: Apache-2.0
// Numbers of the MMIO transport. Source: virtio 1.2, 2.1 (status), 4.2.2 (registers), chapter 6
// (features).
#pragma once

#include "guest-images/ledger/cpu.h"

namespace snapvm::guest::virtio {

inline constexpr u32 kMagicValue = 0x00, kVersion = 0x04, kDeviceId = 0x08;
inline constexpr u32 kDeviceFeatures = 0x10, kDeviceFeaturesSel = 0x14, kDriverFeatures = 0x20,
                     kDriverFeaturesSel = 0x24;
inline constexpr u32 kQueueSel = 0x30, kQueueNumMax = 0x34, kQueueNum = 0x38, kQueueReady = 0x44, kQueueNotify = 0x50;
inline constexpr u32 kInterruptStatus = 0x60, kInterruptAck = 0x64, kStatus = 0x70;
inline constexpr u32 kQueueDesc = 0x80, kQueueDriver = 0x90, kQueueDevice = 0xa0;  // low halves; the high ones 4 behind
inline constexpr u32 kConfigGeneration = 0xfc;

inline constexpr u32 kMagic = 0x74726976;
inline constexpr u32 kAcknowledge = 1, kDriver = 2, kDriverOk = 4, kFeaturesOk = 8, kNeedsReset = 64;  // status
inline constexpr u32 kUsedBuffer = 1, kConfigChange = 2;  // causes of an interrupt
inline constexpr u64 kVersion1 = 1ULL << 32;

}  // namespace snapvm::guest::virtio
