// SPDX-License-Identifier: Apache-2.0
// What a test guest tells its harness: READY, EXIT n, MARK n (port 0x5F0, ABI in vmm/platform/PLATFORM.md), and the exit port 0xF4 that
// works as QEMU's isa-debug-exit.
#pragma once

#include <memory>
#include <mutex>

#include "devices/device.h"

namespace snapvm {

struct TestPortStateV1 {
    static constexpr std::uint16_t kVersion = 1;
    bool ready = false;
    std::uint32_t ready_value = 0;
    std::uint32_t mark = 0;
    std::uint64_t marks = 0;

    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<TestPortStateV1> decode(std::span<const std::byte> bytes);
};

class TestPort final : public Device {
public:
    static constexpr std::uint32_t kMagic = 0x56504E53;  // "SNPV"

    explicit TestPort(const DeviceHost& host) : events_(host.events), exit_port_(host.events) {}
    static Result<std::unique_ptr<TestPort>> restore(const DeviceHost& host, const StateRecord& record);

    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    [[nodiscard]] StateRecord save() const override;
    /// A machine restored after READY is ready.
    Status restored() override;

    [[nodiscard]] BusDevice& exit_port() { return exit_port_; }
    /// READY, the newest mark and how many there were. Any thread.
    [[nodiscard]] TestPortStateV1 state() const;

private:
    class ExitPort final : public BusDevice {
    public:
        explicit ExitPort(GuestEvents& events) : events_(events) {}
        void read(std::uint64_t offset, std::span<std::byte> data) override;
        void write(std::uint64_t offset, std::span<const std::byte> data) override;

    private:
        GuestEvents& events_;
    };

    GuestEvents& events_;
    ExitPort exit_port_;
    mutable std::mutex mutex_;
    TestPortStateV1 state_;
};

}  // namespace snapvm
