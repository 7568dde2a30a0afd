// SPDX-License-Identifier: Apache-2.0
// Records what devices do to the outside, so that they are tested without KVM.
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

#include "devices/base/device.h"
#include "devices/event_loop/event_loop.h"
#include "devices/registry.h"
#include "tests/support/fake_tap.h"
#include "tests/support/scratch_folder.h"
#include "vmm/platform/platform.h"

namespace snapvm::test {

/// Takes interrupts, messages, output and events of one machine's devices, and logs them in order.
class FakeHost final : public InterruptSink,
                       public MsiSink,
                       public OutputSink,
                       public GuestEvents,
                       public PauseRequests {
public:
    FakeHost() {
        std::vector<MemoryBlock> blocks;
        blocks.push_back(*MemoryBlock::anonymous({BlockId::ram_low, Gpa{0}, 1 << 20}, PagePolicy::small_pages));
        blocks.push_back(*MemoryBlock::anonymous({BlockId::vmgenid, platform::kVmGenIdBase, platform::kVmGenIdSize},
                                                 PagePolicy::small_pages));
        memory = *GuestMemory::of(std::move(blocks));
        loop = *EventLoop::create();
    }

    [[nodiscard]] DeviceHost host() {
        return {.interrupts = this,
                .msi = *this,
                .serial_output = *this,
                .console_output = console_sink_,
                .events = *this,
                .pauses = *this,
                .memory = memory,
                .loop = loop.get()};
    }
    [[nodiscard]] Openers openers() const { return {.tap = open_tap}; }

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
    void request_pause(const Error& why) override {
        log.push_back("pause " + why.message());
        pauses.push_back(why.message());
    }
    [[nodiscard]] bool high(std::uint32_t gsi) const { return gsi < levels.size() && levels[gsi]; }

    OpenTap open_tap = FakeTap::open;
    GuestMemory memory;
    std::unique_ptr<EventLoop> loop;  ///< not started: tests run it
    std::vector<std::string> log;
    std::vector<bool> levels;
    int edges = 0;
    std::vector<MsiMessage> messages;
    std::vector<std::vector<MsiMessage>> published;
    std::string output;
    std::string console;  ///< output of the virtio console
    std::size_t console_room = 1 << 20;  ///< output that the virtio console accepts at most, in bytes
    bool full = false;
    std::optional<std::mt19937> sometimes_full;  ///< refuses a third of the output
    std::vector<std::pair<GuestRequest, std::uint8_t>> requests;
    std::vector<std::uint32_t> ready_values;
    std::vector<std::uint32_t> marks;
    std::vector<std::string> pauses;  ///< what devices want the machine paused for

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

/// Returns the path of a disk in memory. The disk belongs to this process and is all zeros.
inline std::string memory_disk() {
    constexpr off_t kSize = 1 << 20;
    static const int fd = [] {
        const int made = ::memfd_create("disk", MFD_CLOEXEC);
        return ::ftruncate(made, kSize) == 0 ? made : -1;
    }();
    return "/proc/self/fd/" + std::to_string(fd);
}

/// Returns a machine with one of each device. Each call describes another machine: its host
/// resources have names of their own. The disk is read-only, because tests have several devices on
/// it at once and only one may write.
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

/// Has a device adopt a record, as a restored machine does.
[[nodiscard]] inline Status adopt_record(Device& device, const StateRecord& record) {
    const auto parsed = device.parse(record);
    if (!parsed) {
        return fail(parsed.error());
    }
    device.adopt(**parsed);
    return {};
}

/// Builds a device as a machine does: switched on if `record` is null, else with the state in it.
inline Result<AttachedDevice> build_device(const DeviceFactory& factory, FakeHost& fake, const DeviceConfig& config,
                                           const StateRecord* record = nullptr) {
    auto attached = factory.build(fake.host(), fake.openers(), config, 0);
    if (attached) {
        Device& device = *attached->device;
        if (Status begun = record == nullptr ? device.power_on() : adopt_record(device, *record); !begun) {
            return fail(begun.error());
        }
    }
    return attached;
}

/// Makes a device of this type with the state of a record.
template <class Made, class... Arguments>
Result<std::unique_ptr<Made>> restore_device(const StateRecord& record, Arguments&&... arguments) {
    auto device = std::make_unique<Made>(std::forward<Arguments>(arguments)...);
    if (Status adopted = adopt_record(*device, record); !adopted) {
        return fail(adopted.error());
    }
    return device;
}

/// Returns the value of `size` bytes read from a device, as a driver sees it.
inline std::uint64_t read_device(BusDevice& device, std::uint64_t offset, std::size_t size = 1) {
    std::uint64_t value = 0;
    device.read(offset, std::as_writable_bytes(std::span(&value, 1)).first(size));
    return value;
}
inline void write_device(BusDevice& device, std::uint64_t offset, std::uint64_t value, std::size_t size = 1) {
    device.write(offset, std::as_bytes(std::span(&value, 1)).first(size));
}

}  // namespace snapvm::test
