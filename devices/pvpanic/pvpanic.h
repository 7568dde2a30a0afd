// SPDX-License-Identifier: Apache-2.0
// The port on which a guest's kernel says that it has panicked. Source: QEMU's documentation, specs/pvpanic; Linux has the driver.
#pragma once

#include <atomic>
#include <memory>

#include "devices/device.h"

namespace snapvm {

struct PvpanicStateV1 {
    static constexpr std::uint16_t kVersion = 1;
    bool crash_loaded = false;  ///< the guest has panicked, and a crash kernel of its own has taken over

    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<PvpanicStateV1> decode(std::span<const std::byte> bytes);
};

/// One byte: read, the events that can be told; written, those that have happened. A panic ends the run.
class Pvpanic final : public Device {
public:
    enum Event : std::uint8_t { panicked = 1, crash_loaded = 2 };

    explicit Pvpanic(const DeviceHost& host) : events_(host.events) {}
    static Result<std::unique_ptr<Pvpanic>> restore(const DeviceHost& host, const StateRecord& record);

    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    [[nodiscard]] StateRecord save() const override;

    /// The guest goes on after a panic, to dump its memory. Any thread.
    [[nodiscard]] bool has_crash_kernel() const { return crash_loaded_; }

private:
    GuestEvents& events_;
    std::atomic<bool> crash_loaded_ = false;
};

}  // namespace snapvm
