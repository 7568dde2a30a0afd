// SPDX-License-Identifier: Apache-2.0
// A tiny guest that asks its virtio device for random numbers.
#pragma once

#include <memory>

#include "tests/kvm/rig.h"

/// Makes one request after the other. Counter 0 counts requests answered.
extern const snapvm::test::TinyCode drive_rng;

namespace snapvm::test {

inline constexpr Gpa kRngBuffer{0xA0000};  ///< the device writes its 64 bytes here

/// Creates a machine with such a device, and the register table for a guest that drives it
/// (tiny_virtio.h). Does not start it.
std::unique_ptr<Machine> rng_machine(const kvm::System& system, const TinyGuest& guest = {.code = drive_rng});

}  // namespace snapvm::test
