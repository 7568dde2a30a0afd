// SPDX-License-Identifier: Apache-2.0
// The ledger guest's loads on disk, balloon and vsock must do what benchmarks assume.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <fstream>
#include <set>
#include <thread>
#include <vector>

#include "guest-images/ledger/load_format.h"
#include "tests/kvm/harness.h"
#include "vmm/base/fd.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::test {
namespace {

constexpr std::uint64_t kRegion = 16ULL << 20;

class LedgerLoad : public KvmTest, public ::testing::WithParamInterface<const char*> {
protected:
    static ledger::Load load(const Machine& machine) {
        return need(machine.memory().load<ledger::Load>(Gpa{ledger::kLoadAddress}));
    }
    static std::unique_ptr<Machine> boot(const DeviceConfig& devices) {
        LedgerOptions options{.cmdline = std::string("ws=64K hz=0 paused=1 load=16M ") + GetParam()};
        options.devices = devices;
        auto machine = boot_ledger(options);
        for (const auto until = soon(); load(*machine).magic != ledger::kLoadMagic && SteadyClock::now() < until;) {
            std::this_thread::sleep_for(1ms);
        }
        EXPECT_EQ(load(*machine).region_bytes, kRegion);
        return machine;
    }
    static void begin(Machine& machine, const ledger::LoadOrder& order) {
        const Gpa at{ledger::kLoadAddress};
        need(machine.memory().store(at + offsetof(ledger::Load, order), order));
        need(machine.memory().store(at + offsetof(ledger::Load, number), load(machine).number + 1));
        send(machine, "l");
    }
    static ledger::Load end(Machine& machine) {
        for (const auto until = soon(); load(machine).finished != load(machine).number;) {
            if (SteadyClock::now() > until) {
                ADD_FAILURE() << "no end of it: " << machine.serial().output().read(0, SteadyClock::now()).bytes;
                break;
            }
            std::this_thread::sleep_for(1ms);
        }
        return load(machine);
    }
    static ledger::Load carry_out(Machine& machine, const ledger::LoadOrder& order) {
        begin(machine, order);
        return end(machine);
    }
};

TEST_P(LedgerLoad, OfADisk) {
    constexpr std::uint64_t kPages = 256;
    constexpr std::uint32_t kDepth = 8;
    const std::string path = area("disk").path;
    std::ofstream(path, std::ios::binary) << std::string(2 * kPages * kPageSize, 'x');
    DeviceConfig devices;
    devices.disks = {{.id = "load", .path = path}};
    const auto machine = boot(devices);
    const ledger::Load written = carry_out(
        *machine,
        {.kind = ledger::LoadKind::disk_write, .size = kPageSize, .count = kPages, .depth = kDepth, .batch = 3});
    EXPECT_EQ(written.fault, ledger::LoadFault::none);
    EXPECT_EQ(written.done, kPages);
    EXPECT_GT(written.notifications, 0U);

    // Each request has gone to its own place, with the bytes of one of the buffers in flight.
    std::set<std::uint64_t> buffers;
    for (std::uint64_t slot = 0; slot < kDepth; ++slot) {
        buffers.insert(need(machine->memory().load<std::uint64_t>(Gpa{written.region + slot * kPageSize})));
    }
    std::ifstream file(path, std::ios::binary);
    for (std::uint64_t page = 0; page < 2 * kPages; ++page) {
        std::uint64_t word = 0;
        file.seekg(static_cast<std::streamoff>(page * kPageSize)).read(reinterpret_cast<char*>(&word), sizeof word);
        EXPECT_EQ(buffers.contains(word), page < kPages) << page;
    }

    const ledger::Load read = carry_out(*machine, {.kind = ledger::LoadKind::disk_read,
                                                   .random = 1,
                                                   .size = kPageSize,
                                                   .count = 1000,
                                                   .depth = 64,
                                                   .batch = 1,
                                                   .seed = 5});
    EXPECT_EQ(read.fault, ledger::LoadFault::none);
    EXPECT_EQ(read.done, 1000U);
    EXPECT_EQ(
        carry_out(*machine, {.kind = ledger::LoadKind::disk_read, .size = 100, .count = 1, .depth = 1, .batch = 1})
            .fault,
        ledger::LoadFault::refused);
    EXPECT_EQ(carry_out(*machine, {.kind = ledger::LoadKind::echo, .size = 100, .count = 1}).fault,
              ledger::LoadFault::no_device);
    expect_sound_end(*machine);
}

// Pages outside of the balloon are hinted. The guest has written to all of them.
TEST_P(LedgerLoad, OfABalloon) {
    DeviceConfig devices;
    devices.balloon = BalloonConfig{.bytes = kRegion / 4};
    const auto machine = boot(devices);
    const auto inflated_to = [&](std::uint64_t bytes) {
        for (const auto until = soon();
             need(machine->balloon().status()).actual_bytes != bytes && SteadyClock::now() < until;) {
            std::this_thread::sleep_for(1ms);
        }
        return need(machine->balloon().status()).actual_bytes;
    };
    // Hints have a deadline, which a busy host may miss. So the snapshot is repeated.
    const auto expect_pages = [&](const char* name, std::uint64_t balloon, std::uint64_t free) {
        const auto until = soon();
        SnapshotReport report;
        do {
            report = snapshot(*machine, area(name));
            EXPECT_EQ(report.pages[static_cast<std::size_t>(PageClass::balloon)], balloon / kPageSize) << name;
        } while (report.pages[static_cast<std::size_t>(PageClass::free)] != free / kPageSize &&
                 SteadyClock::now() < until);
        EXPECT_EQ(report.pages[static_cast<std::size_t>(PageClass::free)], free / kPageSize) << name;
    };
    EXPECT_EQ(inflated_to(kRegion / 4), kRegion / 4);
    expect_pages("quarter", kRegion / 4, kRegion / 4 * 3);
    need(machine->balloon().set_target(kRegion / 2));
    EXPECT_EQ(inflated_to(kRegion / 2), kRegion / 2);
    EXPECT_EQ(carry_out(*machine, {.kind = ledger::LoadKind::dirty}).fault, ledger::LoadFault::refused);
    expect_pages("half", kRegion / 2, kRegion / 2);
    need(machine->balloon().set_target(0));
    EXPECT_EQ(inflated_to(0), 0U);
    EXPECT_EQ(carry_out(*machine, {.kind = ledger::LoadKind::dirty, .seed = 2}).fault, ledger::LoadFault::none);
    expect_pages("none", 0, kRegion);
    expect_sound_end(*machine);
}

TEST_P(LedgerLoad, OfAStream) {
    constexpr std::uint64_t kSize = 3000;
    constexpr std::uint64_t kCount = 500;
    const std::string path = area("vsock").path;
    Listener listener = need(Listener::open(path + "_" + std::to_string(ledger::kLoadPort), "another path"));
    DeviceConfig devices;
    devices.vsock = VsockConfig{.cid = 3, .socket = path};
    const auto machine = boot(devices);
    const UniqueFd socket(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    ASSERT_TRUE(socket.valid());
    std::vector<std::byte> bytes(kSize * kCount);
    const auto receive = [&](std::size_t size) {
        std::size_t got = 0;
        while (got < size) {
            const ssize_t part = ::read(socket.get(), bytes.data() + got, size - got);
            if (part <= 0) {
                break;
            }
            got += static_cast<std::size_t>(part);
        }
        return got;
    };

    const auto message = need(machine->memory().span(Gpa{load(*machine).region}, kSize));
    begin(*machine, {.kind = ledger::LoadKind::stream_out, .size = kSize, .count = kCount});
    ASSERT_EQ(receive(kSize * kCount), kSize * kCount);
    EXPECT_EQ(end(*machine).fault, ledger::LoadFault::none);
    for (std::uint64_t i = 0; i < kCount; ++i) {
        ASSERT_TRUE(std::ranges::equal(std::span(bytes).subspan(i * kSize, kSize), message)) << i;
    }

    // All bytes are sent at once before the guest reads. None may be lost between two messages.
    begin(*machine, {.kind = ledger::LoadKind::stream_in, .size = kSize, .count = kCount});
    need(write_all(socket.get(), bytes, "the stream"));
    EXPECT_EQ(end(*machine).done, kCount);

    begin(*machine, {.kind = ledger::LoadKind::echo, .size = kSize, .count = 20});
    for (int i = 0; i < 20; ++i) {
        ASSERT_EQ(receive(kSize), kSize);
        need(write_all(socket.get(), std::span(bytes).first(kSize), "the stream"));
    }
    EXPECT_EQ(end(*machine).done, 20U);
    expect_sound_end(*machine);
}

// The stream of a restored machine ends with its snapshot. The guest is told so and opens another
// one.
TEST_P(LedgerLoad, OfAStreamOverARestore) {
    constexpr std::uint64_t kSize = 1000;
    const std::string socket_path = area("vsock").path;
    Listener listener = need(Listener::open(socket_path + "_" + std::to_string(ledger::kLoadPort), "another path"));
    DeviceConfig devices;
    devices.vsock = VsockConfig{.cid = 3, .socket = socket_path};
    std::unique_ptr<Machine> machine = boot(devices);
    for (std::uint64_t generation = 1; generation <= 4; ++generation) {
        pollfd asked{.fd = listener.fd(), .events = POLLIN, .revents = 0};
        ASSERT_EQ(::poll(&asked, 1, std::chrono::milliseconds(kPatience).count()), 1) << "no new stream";
        const UniqueFd socket(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
        ASSERT_TRUE(socket.valid());
        std::array<std::byte, kSize> bytes;
        // The snapshot interrupts the second order at any point.
        for (const bool whole : {true, false}) {
            begin(*machine, {.kind = ledger::LoadKind::echo, .size = kSize, .count = whole ? 5U : 1000U});
            for (int i = 0; i < 5; ++i) {
                ASSERT_EQ(::recv(socket.get(), bytes.data(), kSize, MSG_WAITALL), static_cast<ssize_t>(kSize));
                need(write_all(socket.get(), bytes, "the stream"));
            }
            if (whole) {
                const ledger::Load load = end(*machine);
                EXPECT_EQ(load.done, 5U);
                EXPECT_EQ(load.fault, ledger::LoadFault::none);
            }
        }
        WriteOptions options;
        options.keep_frozen = true;
        const AreaPath path = area(generation % 2 == 0 ? "even" : "odd");
        snapshot(*machine, path, options);
        machine.reset();
        machine = restore(path);
        need(machine->resume());
        EXPECT_EQ(end(*machine).fault, ledger::LoadFault::failed);
    }
    expect_sound_end(*machine);
}

INSTANTIATE_TEST_SUITE_P(Rings, LedgerLoad, ::testing::Values("", "virtio=plain"));

}  // namespace
}  // namespace snapvm::test
