// SPDX-License-Identifier: Apache-2.0
// What tells a Linux kernel of its virtio devices where ACPI does not (PLATFORM.md, "Without ACPI").
#pragma once

#include <cstddef>
#include <string>

namespace snapvm {

/// The words for its command line, of a machine with `virtio_devices`.
[[nodiscard]] std::string arguments_without_acpi(std::size_t virtio_devices);

}  // namespace snapvm
