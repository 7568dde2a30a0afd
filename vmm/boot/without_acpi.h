// SPDX-License-Identifier: Apache-2.0
// Tells a Linux kernel that runs without ACPI of its virtio devices (PLATFORM.md, "Without ACPI").
#pragma once

#include <cstddef>
#include <string>

namespace snapvm {

/// Returns the arguments for the command line of a machine with `virtio_devices`.
[[nodiscard]] std::string arguments_without_acpi(std::size_t virtio_devices);

}  // namespace snapvm
