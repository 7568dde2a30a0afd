// SPDX-License-Identifier: Apache-2.0
// Everything a device needs from outside, recorded: devices are tested without KVM.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "devices/device.h"
#include "devices/event_loop/event_loop.h"
#include "devices/registry.h"
#include "tests/support/fake_tap.h"
#include "tests/support/scratch_folder.h"
#include "vmm/platform/platform.h"

namespace snapvm::test {

/// Takes interrupts, messages, output and events of one machine's devices and writes them down in order.
class FakeHost final : public InterruptSink, public MsiSink, public OutputSink, public GuestEvents {
public:
    FakeHost() {
        std::vector<MemoryBlock> blocks;
        blocks.push_back(*MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, 1 << 20}, PagePolicy::small_pages));
        blocks.push_back(
            *MemoryBlock::anonymous({BlockId::vmgenid, platform::kVmGenIdBase, platform::kVmGenIdSize}, PagePolicy::small_pages));
        memory = *GuestMemory::of(std::move(blocks));
        loop = *EventLoop::create();
    }

    [[nodiscard]] DeviceHost host() {
        return {.interrupts = this,
                .msi = *this,
                .serial_output = *this,
                .console_output = console_sink_,
                .events = *this,
                .memory = memory,
                .loop = loop.get(),
                .open_tap = open_tap};
    }

    void set_level(std::uint32_t gsi, bool high) override {
        log.push_back("pin " + std::to_string(gsi) + (high ? " high" : " low"));
        levels.resize(std::max<std::size_t>(levels.size(), gsi + 1));
        if (high && !levels[gsi]) {
            ++edges;
        }
        levels[gsi] = high;
    }
    void deliver(const MsiMessage& message) override {
        log.push_back("message " + std::to_string(message.address) + " " + std::to_string(message.data));
        messages.push_back(message);
    }
    void set_routes(std::span<const MsiMessage> routes) override {
        log.push_back("routes");
        published.emplace_back(routes.begin(), routes.end());
    }
    bool put(std::uint8_t byte) override {
        if (full || (sometimes_full && sometimes_full->operator()() % 3 == 0)) {
            return false;
        }
        log.push_back("output " + std::to_string(byte));
        output.push_back(static_cast<char>(byte));
        return true;
    }
    void request(GuestRequest what, std::uint8_t exit_code) override {
        log.push_back("request " + std::to_string(static_cast<int>(what)) + " " + std::to_string(exit_code));
        requests.emplace_back(what, exit_code);
    }
    void ready(std::uint32_t value) override {
        log.push_back("ready " + std::to_string(value));
        ready_values.push_back(value);
    }
    void mark(std::uint32_t value) override {
        log.push_back("mark " + std::to_string(value));
        marks.push_back(value);
    }
    [[nodiscard]] bool high(std::uint32_t gsi) const { return gsi < levels.size() && levels[gsi]; }

    OpenTap open_tap = FakeTap::open;
    GuestMemory memory;
    std::unique_ptr<EventLoop> loop;  ///< not started: tests say when it works
    std::vector<std::string> log;
    std::vector<bool> levels;
    int edges = 0;
    std::vector<MsiMessage> messages;
    std::vector<std::vector<MsiMessage>> published;
    std::string output;
    std::string console;                 ///< the virtio console's output
    std::size_t console_room = 1 << 20;  ///< it takes no more than this
    bool full = false;
    std::optional<std::mt19937> sometimes_full;  ///< refuses a third of the output
    std::vector<std::pair<GuestRequest, std::uint8_t>> requests;
    std::vector<std::uint32_t> ready_values;
    std::vector<std::uint32_t> marks;

private:
    struct ConsoleSink final : OutputSink {
        explicit ConsoleSink(FakeHost& the_host) : host(the_host) {}
        bool put(std::uint8_t byte) override {
            if (host.console.size() >= host.console_room) {
                return false;
            }
            host.console.push_back(static_cast<char>(byte));
            return true;
        }
        FakeHost& host;
    };
    ConsoleSink console_sink_{*this};
};

/// The path of a disk in memory, of this process and all zeros.
inline std::string memory_disk() {
    constexpr off_t kSize = 1 << 20;
    static const int fd = [] {
        const int made = ::memfd_create("disk", MFD_CLOEXEC);
        return ::ftruncate(made, kSize) == 0 ? made : -1;
    }();
    return "/proc/self/fd/" + std::to_string(fd);
}

/// A machine with one of each. Each call is another machine: what is made on the host has a name of its own. The disk is read-only: several of the device at once is what the tests want, and only one may write.
inline DeviceConfig all_devices() {
    static const ScratchFolder scratch;
    static unsigned machine = 0;
    DeviceConfig config;
    config.disks = {{.id = "root", .path = memory_disk(), .read_only = true}};
    config.nets = {{.id = "eth0", .tap = "tap0", .mac = {2, 0, 0, 0, 0, 1}}};
    config.balloon.emplace();
    config.vsock = VsockConfig{3, scratch.file("vsock-" + std::to_string(++machine))};
    config.rng = true;
    config.console = true;
    return config;
}

/// The value of `size` bytes read from a device, as a driver sees it.
inline std::uint64_t read_device(BusDevice& device, std::uint64_t offset, std::size_t size = 1) {
    std::uint64_t value = 0;
    device.read(offset, std::as_writable_bytes(std::span(&value, 1)).first(size));
    return value;
}
inline void write_device(BusDevice& device, std::uint64_t offset, std::uint64_t value, std::size_t size = 1) {
    device.write(offset, std::as_bytes(std::span(&value, 1)).first(size));
}

}  // namespace snapvm::test
