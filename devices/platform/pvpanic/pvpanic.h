// SPDX-License-Identifier: Apache-2.0
// The port through which a guest's kernel reports that it has panicked. Source: QEMU's
// documentation, specs/pvpanic; Linux has the driver.
#pragma once

#include "devices/base/stateful_device.h"

namespace snapvm {

struct PvpanicStateV1 {
    static constexpr RecordKind kKind = RecordKind::pvpanic;
    static constexpr std::uint16_t kVersion = 1;
    bool crash_loaded = false;  ///< the guest has panicked, and a crash kernel of its own has taken over

    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<PvpanicStateV1> decode(std::span<const std::byte> bytes);
};

/// One byte. A read returns the events that can be reported, a write reports events. A panic ends
/// the run.
class Pvpanic final : public StatefulDevice<PvpanicStateV1> {
public:
    enum Event : std::uint8_t { panicked = 1, crash_loaded = 2 };

    explicit Pvpanic(const DeviceHost& host) : events_(host.events) {}

    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

    /// Whether the guest goes on after a panic in a crash kernel, to dump its memory. Any thread.
    [[nodiscard]] bool has_crash_kernel() const { return state().crash_loaded; }

private:
    GuestEvents& events_;
};

}  // namespace snapvm
