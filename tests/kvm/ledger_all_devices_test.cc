// SPDX-License-Identifier: Apache-2.0
// A ledger machine with every device, all of them at work, over live snapshots at any moment.
// Memory and disk must be of one moment, and each device must answer in each restored machine.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <thread>

#include "tests/kvm/ledger_guest.h"
#include "tests/support/tap_network.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::test {
namespace {

constexpr std::uint64_t kDiskBytes = 1ULL << 20;
constexpr std::uint64_t kLentBytes = 4ULL << 20;
constexpr const char* kTap = "ledger";
constexpr MacAddress kGuestMac = {2, 0, 0, 0, 0, 1};
constexpr MacAddress kHostMac = {2, 0, 0, 0, 0, 2};
constexpr std::uint64_t kTyped = 4000;  // more than the guest has buffers for, less than the device keeps
constexpr std::uint64_t kStreamed = 20'000;

struct Case {
    std::uint32_t cpus;
    bool plain;  ///< without event indexes and indirect descriptors
};

class LedgerAllDevices : public KvmTest, public ::testing::WithParamInterface<Case> {
protected:
    void SetUp() override {
        KvmTest::SetUp();
        if (IsSkipped()) {
            return;
        }
        if (network_.reason().empty()) {
            network_.add(kTap);
            host_.emplace(kTap);
        } else {
            std::printf("without a network interface: %s\n", network_.reason().c_str());
        }
    }
    [[nodiscard]] std::string disk_path() const { return area("disk").path; }
    [[nodiscard]] std::string socket_path() const { return area("vsock").path; }
    [[nodiscard]] std::unique_ptr<Machine> boot() const {
        write_file(disk_path(), Bytes(kDiskBytes, 'x'));
        LedgerOptions options{.cpus = GetParam().cpus, .cmdline = "ws=1M rate=0 seen=1 disk=1 balloon=4M echo=1"};
        options.cmdline += GetParam().plain ? " virtio=plain" : "";
        options.devices.disks = {{.id = "ledger", .path = disk_path()}};
        options.devices.balloon.emplace();
        options.devices.rng = true;
        options.devices.console = true;
        options.devices.vsock = VsockConfig{.cid = 3, .socket = socket_path()};
        if (host_) {
            options.devices.nets = {{.id = "eth0", .tap = kTap, .mac = kGuestMac}};
        }
        auto machine = boot_ledger(options);
        std::uint64_t position = 0;
        const auto line = wait_line(*machine, "LEDGER ECHO", position);
        EXPECT_EQ(line.value_or("no echo"),
                  std::string("LEDGER ECHO console=1 net=") + (host_ ? "1" : "0") + " vsock=1");
        return machine;
    }

    /// Restores a machine with another CID.
    static std::unique_ptr<Machine> restore_with(const AreaPath& path, std::uint32_t cid) {
        RestoredSnapshot snapshot = need(open_snapshot(path));
        snapshot.saved.config.devices.vsock->cid = cid;
        return need(Machine::restore(system(), snapshot.saved, std::move(snapshot.memory)));
    }

    /// Gives each device something to do, and waits for none of it.
    void begin_work(Machine& machine) {
        need(write_all(stream_.get(), std::vector<std::byte>(kStreamed), "the stream"));
        send(machine, "nnn");
        type(machine, std::string(kTyped, '.'));
        need(machine.balloon().set_target(random(kLentBytes / kPageSize + 1) * kPageSize));
        for (int i = 0; host_ && i < 20; ++i) {
            EXPECT_TRUE(host_->send(frame(kGuestMac, kHostMac, std::to_string(i))));
        }
    }
    /// Returns a frame of the type for local experiments.
    static std::vector<std::byte> frame(const MacAddress& to, const MacAddress& from, std::string_view text) {
        std::vector<std::byte> frame(60);
        auto at = std::ranges::copy(std::as_bytes(std::span(to)), frame.begin()).out;
        at = std::ranges::copy(std::as_bytes(std::span(from)), at).out;
        *at++ = std::byte{0x88};
        *at++ = std::byte{0xB5};
        std::ranges::copy(std::as_bytes(std::span(text)), at);
        return frame;
    }
    /// Waits for a frame from the guest that `wanted` accepts. Returns false if none comes.
    [[nodiscard]] bool receives(const std::function<bool(const std::vector<std::byte>&)>& wanted) const {
        while (const auto frame = host_->receive()) {
            if (wanted(*frame)) {
                return true;
            }
        }
        return false;
    }

    static void type(Machine& machine, std::string_view text) {
        const std::span bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
        EXPECT_EQ(machine.virtio_console().send(bytes, soon()), text.size());
    }
    /// Returns words that were not used before.
    std::string new_words() { return "word " + std::to_string(++words_) + "\n"; }

    // Each of the functions below requests something of one device and waits for the answer.
    static void expect_random_numbers(Machine& machine, std::set<std::string>& seen) {
        ASSERT_NO_FATAL_FAILURE(settle(machine));
        const RngLine line = draw(machine);
        ASSERT_EQ(line.bytes, 64U) << line.text;
        EXPECT_TRUE(seen.insert(line.value).second) << line.text;
    }
    // The output in flight comes first, and all of it once.
    void expect_the_console_answers(Machine& machine) {
        const std::string words = new_words();
        type(machine, words);
        std::string output;
        for (std::uint64_t at = 0; !output.ends_with(words);) {
            const Console::Chunk chunk = machine.virtio_console().output().read(at, soon());
            ASSERT_FALSE(chunk.bytes.empty()) << output;
            output += chunk.bytes;
            at = chunk.next;
        }
        EXPECT_EQ(output, std::string(console_owes_, '.') + words);
    }
    // Uses a new connection, which stays until the machine's end. The last one has ended with its
    // machine.
    void expect_the_stream_answers() {
        stream_ = need(connect_unix(socket_path()));
        const timeval patience{.tv_sec = std::chrono::seconds(kPatience).count(), .tv_usec = 0};
        ASSERT_EQ(::fcntl(stream_.get(), F_SETFL, 0), 0);  // reads block, with a limit
        ASSERT_EQ(::setsockopt(stream_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
        const std::string words = "CONNECT 7\n" + new_words();
        need(write_all(stream_.get(), std::as_bytes(std::span(words)), "the stream"));
        std::string answer;
        for (char byte = 0; std::ranges::count(answer, '\n') < 2 && ::read(stream_.get(), &byte, 1) == 1;) {
            answer += byte;
        }
        ASSERT_TRUE(answer.starts_with("OK ")) << answer;
        ASSERT_EQ(answer.substr(answer.find('\n') + 1), words.substr(words.find('\n') + 1));
    }
    // Frames in flight may come first, or be lost with their tap.
    void expect_the_interface_answers() {
        const std::string words = new_words();
        ASSERT_TRUE(host_->send(frame(kGuestMac, kHostMac, words)));
        ASSERT_TRUE(receives([&](const auto& got) { return got == frame(kHostMac, kGuestMac, words); }));
    }
    void expect_an_announcement() const {
        ASSERT_TRUE(receives([](const std::vector<std::byte>& got) {
            return got.size() >= 14 && got[12] == std::byte{0x80} && got[13] == std::byte{0x35} &&
                   std::ranges::equal(std::span(got).subspan(6, kGuestMac.size()), std::as_bytes(std::span(kGuestMac)));
        }));
    }
    void expect_the_balloon_follows(Machine& machine) {
        const std::uint64_t target = random(kLentBytes / kPageSize + 1) * kPageSize;
        need(machine.balloon().set_target(target));
        for (const auto until = soon(); need(machine.balloon().status()).actual_bytes != target;) {
            ASSERT_LT(SteadyClock::now(), until) << need(machine.balloon().status()).actual_bytes << " for " << target;
            std::this_thread::sleep_for(1ms);
        }
    }
    void expect_all_answer(Machine& machine) {
        ASSERT_NO_FATAL_FAILURE(wait_for_records(machine, disk_header(machine.memory()).submitted + 1));
        ASSERT_NO_FATAL_FAILURE(expect_random_numbers(machine, random_numbers_));
        ASSERT_NO_FATAL_FAILURE(expect_the_console_answers(machine));
        ASSERT_NO_FATAL_FAILURE(expect_the_stream_answers());
        if (host_) {
            ASSERT_NO_FATAL_FAILURE(expect_the_interface_answers());
        }
        ASSERT_NO_FATAL_FAILURE(expect_the_balloon_follows(machine));
        const LedgerLine line = verify_ledger(machine);
        ASSERT_TRUE(line.ok) << line.text;
    }

    std::set<std::string> random_numbers_;
    TapNetwork network_;
    std::optional<PacketSocket> host_;  ///< the other end of the guest's network interface, if there is one
    UniqueFd stream_;  ///< to the guest's echo port
    unsigned words_ = 0;
    /// number of bytes typed before the pause that the machine had not sent back by then
    std::uint64_t console_owes_ = 0;
};

TEST_P(LedgerAllDevices, WorkOnOverSnapshotsAndRestores) {
    std::unique_ptr<Machine> machine = boot();
    ASSERT_NO_FATAL_FAILURE(expect_all_answer(*machine));
    for (int moment = 0; moment < 8; ++moment) {
        SCOPED_TRACE(moment);
        const std::uint64_t said = machine->virtio_console().output().end();
        begin_work(*machine);
        run_a_while(3ms);
        const AreaPath path = area(moment % 2 == 0 ? "even" : "odd");
        WriteOptions options;
        options.keep_frozen = true;  // the disk must stay as it was at the pause, and only one machine may use it
        snapshot(*machine, path, options);
        console_owes_ = kTyped - (machine->virtio_console().output().end() - said);
        machine.reset();
        {
            const RestoredSnapshot still = need(open_snapshot(path));
            EXPECT_EQ(check_ledger(still.memory), "");
            EXPECT_EQ(check_disk(still.memory, read_file(disk_path())), "");
        }
        machine = restore_with(path, moment % 2 == 0 ? 4 : 3);
        need(machine->resume());
        if (host_) {
            ASSERT_NO_FATAL_FAILURE(expect_an_announcement());
        }
        ASSERT_NO_FATAL_FAILURE(expect_all_answer(*machine));
    }
    expect_sound_end(*machine);
}

INSTANTIATE_TEST_SUITE_P(Cases, LedgerAllDevices,
                         ::testing::Values(Case{1, false}, Case{1, true}, Case{2, false}, Case{2, true}),
                         [](const auto& test) {
                             return std::to_string(test.param.cpus) + (test.param.plain ? "plain" : "full");
                         });

}  // namespace
}  // namespace snapvm::test
