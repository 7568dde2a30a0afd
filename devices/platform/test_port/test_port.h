// SPDX-License-Identifier: Apache-2.0
// The ports by which a test guest talks to its harness: READY, EXIT n and MARK n (port 0x5F0, ABI
// in vmm/platform/PLATFORM.md), and the exit port 0xF4, which works as QEMU's isa-debug-exit.
#pragma once

#include "devices/base/stateful_device.h"

namespace snapvm {

struct TestPortStateV1 {
    static constexpr RecordKind kKind = RecordKind::test_port;
    static constexpr std::uint16_t kVersion = 1;
    bool ready = false;
    std::uint32_t ready_value = 0;
    std::uint32_t mark = 0;
    std::uint64_t marks = 0;

    [[nodiscard]] std::vector<std::byte> encode() const;
    static Result<TestPortStateV1> decode(std::span<const std::byte> bytes);
};

class TestPort final : public StatefulDevice<TestPortStateV1> {
public:
    static constexpr std::uint32_t kMagic = 0x56504E53;  // "SNPV"

    explicit TestPort(const DeviceHost& host) : events_(host.events), exit_port_(host.events) {}

    void read(std::uint64_t offset, std::span<std::byte> data) override;
    void write(std::uint64_t offset, std::span<const std::byte> data) override;
    /// Reports READY again if the guest said it before the snapshot.
    Status restored() override;

    [[nodiscard]] BusDevice& exit_port() { return exit_port_; }

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
};

}  // namespace snapvm
