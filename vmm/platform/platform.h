// SPDX-License-Identifier: Apache-2.0
// The constants of PLATFORM.md: addresses, ports and interrupts that guests rely on.
#pragma once

#include <cstdint>

#include "vmm/memory/gpa.h"

namespace snapvm::platform {

// Memory map.
inline constexpr Gpa kHoleStart{0xC0000000};
inline constexpr Gpa kHoleEnd{0x100000000};
inline constexpr Gpa kFirmwareBase{0xE0000000};
inline constexpr std::uint64_t kFirmwareSize = 64ULL << 10;
inline constexpr Gpa kVmGenIdBase{0xE0010000};
inline constexpr std::uint64_t kVmGenIdSize = kPageSize;
inline constexpr Gpa kVirtioBase{0xD0000000};
inline constexpr std::uint64_t kVirtioStride = kPageSize;  ///< bytes between the registers of two virtio devices
inline constexpr Gpa kIoApicBase{0xFEC00000};
inline constexpr Gpa kLapicBase{0xFEE00000};

// Where the VMM puts what a boot needs below 1 MiB.
inline constexpr Gpa kGdt{0x500};
inline constexpr Gpa kPvhStartInfo{0x6000};
inline constexpr Gpa kPvhModules{0x6800};
inline constexpr Gpa kBootParams{0x7000};
inline constexpr Gpa kPvhMemoryMap{0x7000};
inline constexpr Gpa kPageTables{0x9000};
inline constexpr Gpa kSetupData{0xF000};
inline constexpr Gpa kCommandLine{0x20000};
inline constexpr std::uint64_t kCommandLineLimit = 4096;  ///< bytes, with the NUL
inline constexpr Gpa kLowReserved{0x9FC00};
inline constexpr Gpa kMpTable{0x9FC00};  ///< kernels without ACPI look here first; reserved in the memory map
inline constexpr Gpa kOneMiB{0x100000};

// Ports.
inline constexpr std::uint16_t kSerialPort = 0x3F8;
inline constexpr std::uint16_t kKeyboardPort = 0x64;
inline constexpr std::uint16_t kResetControlPort = 0xCF9;
inline constexpr std::uint16_t kPanicPort = 0x505;
inline constexpr std::uint16_t kSleepControlPort = 0x600;
inline constexpr std::uint16_t kSleepStatusPort = 0x601;
inline constexpr std::uint16_t kEventPort = 0x602;  ///< generic event device: status, then enable register
inline constexpr std::uint16_t kExitPort = 0xF4;
inline constexpr std::uint16_t kTestPort = 0x5F0;

// Interrupts (GSIs, which are IOAPIC pins).
inline constexpr std::uint32_t kSerialGsi = 4;
inline constexpr std::uint32_t kVmGenIdGsi = 5;
inline constexpr std::uint32_t kEventGsi = 6;   ///< of the generic event device
inline constexpr std::uint32_t kVirtioGsi = 8;  ///< of the first virtio device
inline constexpr std::uint32_t kIoApicPins = 24;

// Values written to ports.
inline constexpr std::uint8_t kResetValue = 0x06;  ///< to kResetControlPort: reboot
inline constexpr std::uint8_t kSoftOffSleepType = 5;
/// Written to kSleepControlPort: SLP_TYP and SLP_EN.
inline constexpr std::uint8_t kSoftOffValue = kSoftOffSleepType << 2 | 0x20;
inline constexpr std::uint8_t kPowerButtonEvent = 1;  ///< bit in both registers of the generic event device

// Limits. KVM allows more vCPUs; the layout of areas and the MADT are sized for these.
inline constexpr std::uint32_t kMaxCpus = 64;
inline constexpr std::uint64_t kMinMemory = 2ULL << 20;
inline constexpr std::uint64_t kMaxMemory = 1ULL << 40;

}  // namespace snapvm::platform
