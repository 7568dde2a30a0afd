// SPDX-License-Identifier: Apache-2.0
// A ledger machine with every device there is, all of them at work, over live snapshots at any moment: memory and disk are of one, and each
// device answers in each restored machine.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <span>
#include <thread>

#include "tests/kvm/ledger_guest.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::test {
namespace {

constexpr std::uint64_t kDiskBytes = 1ULL << 20;
constexpr std::uint64_t kLentBytes = 4ULL << 20;
constexpr std::uint64_t kTyped = 200;
constexpr std::uint64_t kStreamed = 20'000;

struct Case {
    std::uint32_t cpus;
    bool plain;  ///< without event indexes and indirect descriptors
};

class LedgerAllDevices : public KvmTest, public ::testing::WithParamInterface<Case> {
protected:
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
        auto machine = boot_ledger(options);
        std::uint64_t position = 0;
        const auto line = wait_line(*machine, "LEDGER ECHO", position);
        EXPECT_EQ(line.value_or("no echo"), "LEDGER ECHO console=1 vsock=1");
        return machine;
    }

    /// A restored machine may have another CID.
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
        need(machine.set_balloon(random(kLentBytes / kPageSize + 1) * kPageSize));
    }

    static void type(Machine& machine, std::string_view text) {
        const std::span bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
        EXPECT_EQ(machine.send_console_input(bytes, soon()), text.size());
    }
    /// Something that nobody has said before.
    std::string new_words() { return "word " + std::to_string(++words_) + "\n"; }

    // What each of them does when it is asked, from the question to the answer.
    static void expect_random_numbers(Machine& machine, std::set<std::string>& seen) {
        ASSERT_NO_FATAL_FAILURE(settle(machine));
        const RngLine line = draw(machine);
        ASSERT_EQ(line.bytes, 64U) << line.text;
        EXPECT_TRUE(seen.insert(line.value).second) << line.text;
    }
    // What was on its way comes first, and all of it once.
    void expect_the_console_answers(Machine& machine) {
        const std::string words = new_words();
        type(machine, words);
        std::string output;
        for (std::uint64_t at = 0; !output.ends_with(words);) {
            const Console::Chunk chunk = machine.virtio_console().read(at, soon());
            ASSERT_FALSE(chunk.bytes.empty()) << output;
            output += chunk.bytes;
            at = chunk.next;
        }
        EXPECT_EQ(output, std::string(console_owes_, '.') + words);
    }
    // Over a new connection, which stays until the machine's end; the one before has ended with its own.
    void expect_the_stream_answers() {
        stream_ = need(connect_unix(socket_path()));
        ASSERT_EQ(::fcntl(stream_.get(), F_SETFL, 0), 0);  // it is to wait
        const std::string words = "CONNECT 7\n" + new_words();
        need(write_all(stream_.get(), std::as_bytes(std::span(words)), "the stream"));
        std::string answer;
        for (char byte = 0; std::ranges::count(answer, '\n') < 2 && ::read(stream_.get(), &byte, 1) == 1;) {
            answer += byte;
        }
        EXPECT_TRUE(answer.starts_with("OK ")) << answer;
        EXPECT_EQ(answer.substr(answer.find('\n') + 1), words.substr(words.find('\n') + 1));
    }
    void expect_the_balloon_follows(Machine& machine) {
        const std::uint64_t target = random(kLentBytes / kPageSize + 1) * kPageSize;
        need(machine.set_balloon(target));
        for (const auto until = soon(); need(machine.balloon()).actual_bytes != target;) {
            ASSERT_LT(SteadyClock::now(), until) << need(machine.balloon()).actual_bytes << " for " << target;
            std::this_thread::sleep_for(1ms);
        }
    }
    void expect_all_answer(Machine& machine) {
        ASSERT_NO_FATAL_FAILURE(wait_for_records(machine, disk_header(machine.memory()).submitted + 1));
        ASSERT_NO_FATAL_FAILURE(expect_random_numbers(machine, random_numbers_));
        ASSERT_NO_FATAL_FAILURE(expect_the_console_answers(machine));
        ASSERT_NO_FATAL_FAILURE(expect_the_stream_answers());
        ASSERT_NO_FATAL_FAILURE(expect_the_balloon_follows(machine));
        const LedgerLine line = verify_ledger(machine);
        ASSERT_TRUE(line.ok) << line.text;
    }

    std::set<std::string> random_numbers_;
    UniqueFd stream_;  ///< to the guest's echo port
    unsigned words_ = 0;
    std::uint64_t console_owes_ = 0;  ///< of what was typed before the pause, what the machine had not sent back by then
};

TEST_P(LedgerAllDevices, WorkOnOverSnapshotsAndRestores) {
    std::unique_ptr<Machine> machine = boot();
    ASSERT_NO_FATAL_FAILURE(expect_all_answer(*machine));
    for (int moment = 0; moment < 8; ++moment) {
        SCOPED_TRACE(moment);
        const std::uint64_t said = machine->virtio_console().end();
        begin_work(*machine);
        run_a_while(10ms);
        const AreaPath path = area(moment % 2 == 0 ? "even" : "odd");
        WriteOptions options;
        options.keep_frozen = true;  // the disk is to be as it was at the pause, and it is one machine's
        snapshot(*machine, path, options);
        console_owes_ = kTyped - (machine->virtio_console().end() - said);
        machine.reset();
        {
            const RestoredSnapshot still = need(open_snapshot(path));
            EXPECT_EQ(check_ledger(still.memory), "");
            EXPECT_EQ(check_disk(still.memory, read_file(disk_path())), "");
        }
        machine = restore_with(path, moment % 2 == 0 ? 4 : 3);
        need(machine->resume());
        ASSERT_NO_FATAL_FAILURE(expect_all_answer(*machine));
    }
    expect_sound_end(*machine);
}

INSTANTIATE_TEST_SUITE_P(Cases, LedgerAllDevices, ::testing::Values(Case{1, false}, Case{1, true}, Case{2, false}, Case{2, true}),
                         [](const auto& test) { return std::to_string(test.param.cpus) + (test.param.plain ? "plain" : "full"); });

}  // namespace
}  // namespace snapvm::test
