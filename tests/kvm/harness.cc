// SPDX-License-Identifier: Apache-2.0
#include "tests/kvm/harness.h"

#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <thread>

#include "guest-images/ledger/image.h"
#include "vmm/control/machine_source.h"

namespace snapvm::test {
namespace {

Result<kvm::System>& opened_system() {
    static Result<kvm::System> system = kvm::System::open();
    return system;
}

// Gives the verifier pages of a memory that does not change.
class PageReader {
public:
    explicit PageReader(const GuestMemory& memory) : memory_(memory) {}
    const void* operator()(std::uint64_t address) const {
        const auto span = memory_.span(Gpa{address}, kPageSize);
        return span ? span->data() : nullptr;
    }

private:
    const GuestMemory& memory_;
};

template <class T>
T number_after(const std::string& line, const char* key) {
    const std::size_t at = line.find(key);
    return at == std::string::npos ? T{} : static_cast<T>(std::stoll(line.substr(at + std::strlen(key))));
}

}  // namespace

const kvm::System& KvmTest::system() { return *opened_system(); }

void KvmTest::SetUp() {
    if (!opened_system()) {
        // The words are those of SNAPVM_REQUIRE_KVM (tests/support), which `./dev test` looks for.
        GTEST_SKIP() << "needs /dev/kvm: " << opened_system().error().message();
    }
    std::string pattern = (parent_folder() / "snapvm-kvm-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
}

std::filesystem::path KvmTest::parent_folder() const {
    constexpr const char* kMemory = "/dev/shm";
    return ::access(kMemory, W_OK) == 0 ? kMemory : std::filesystem::temp_directory_path();
}

void KvmTest::TearDown() {
    if (!folder_.empty()) {
        std::error_code ignored;
        std::filesystem::remove_all(folder_, ignored);
    }
}

void KvmTest::run_a_while(std::chrono::microseconds most) {
    std::this_thread::sleep_for(std::chrono::microseconds(random(static_cast<std::uint64_t>(most.count()))));
}

std::unique_ptr<Machine> KvmTest::create_ledger(const LedgerOptions& options) {
    MachineConfig config;
    config.memory_bytes = options.memory_bytes;
    config.cpus = options.cpus;
    config.kernel = "builtin:ledger";
    config.cmdline = options.cmdline;
    config.devices = options.devices;
    config.machine_id = need(Uuid::random());
    const BootSource source{.kernel = ledger_image(),
                            .initrds = {},
                            .cmdline = options.cmdline,
                            .cpus = options.cpus,
                            .force_linux64 = options.linux64};
    return need(Machine::create(system(), config, source, options.host));
}

std::unique_ptr<Machine> KvmTest::boot_ledger(const LedgerOptions& options) {
    std::unique_ptr<Machine> machine = create_ledger(options);
    need(machine->resume());
    if (!machine->wait_ready(soon())) {
        throw std::runtime_error("the ledger did not get READY: " +
                                 machine->serial().output().read(0, SteadyClock::now()).bytes);
    }
    return machine;
}

SnapshotReport KvmTest::snapshot(Machine& machine, const AreaPath& path, const WriteOptions& options) {
    MachineSnapshotSource source(machine);
    return need(write_snapshot(source, path, options));
}

std::unique_ptr<Machine> KvmTest::restore(const AreaPath& path, const HostSetup& host) {
    RestoredSnapshot restored = need(open_snapshot(path));
    return need(Machine::restore(system(), restored.saved, std::move(restored.memory), host));
}

void send(Machine& machine, std::string_view bytes) {
    const std::span all(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    EXPECT_EQ(machine.serial().send(all, soon()), bytes.size());
}

std::optional<std::string> wait_line(Machine& machine, std::string_view part, std::uint64_t& position) {
    const auto deadline = soon();
    std::string seen;
    std::uint64_t next = position;
    while (true) {
        for (std::size_t end = seen.find('\n'); end != std::string::npos; end = seen.find('\n')) {
            const std::string line = seen.substr(0, end);
            seen.erase(0, end + 1);
            if (line.find(part) != std::string::npos) {
                position = next - seen.size();
                return line;
            }
        }
        const Console::Chunk chunk = machine.serial().output().read(next, deadline);
        if (chunk.bytes.empty()) {
            return std::nullopt;
        }
        seen += chunk.bytes;
        next = chunk.next;
    }
}

LedgerLine verify_ledger(Machine& machine) {
    std::uint64_t position = machine.serial().output().end();
    send(machine, "v");
    // The answer is "LEDGER OK" or "LEDGER BAD". The READY line may still come before it.
    std::optional<std::string> line;
    do {
        line = wait_line(machine, "LEDGER ", position);
    } while (line && line->find("READY") != std::string::npos);
    LedgerLine answer;
    if (!line) {
        const auto outcome = machine.wait_ended(SteadyClock::now());
        answer.text = "no answer" + (outcome && outcome->error ? ": " + outcome->error->message() : std::string());
        return answer;
    }
    answer.text = *line;
    answer.ok = line->find("LEDGER OK") != std::string::npos;
    if (answer.ok) {
        answer.steps = number_after<std::uint64_t>(*line, "steps=");
        answer.pages = number_after<std::uint64_t>(*line, "pages=");
        answer.ticks = number_after<std::uint64_t>(*line, "ticks=");
        answer.skew_ms = number_after<std::int64_t>(*line, "skew_ms=");
    }
    return answer;
}

Outcome wait_end(Machine& machine) {
    std::optional<Outcome> outcome = machine.wait_ended(soon());
    EXPECT_TRUE(outcome.has_value()) << "the run does not end";
    return outcome.value_or(Outcome{.kind = Outcome::Kind::timed_out, .code = 0, .error = {}});
}

void expect_sound_end(Machine& machine) {
    send(machine, "q");
    const Outcome outcome = wait_end(machine);
    EXPECT_EQ(outcome.kind, Outcome::Kind::guest_exit) << outcome.name();
    EXPECT_EQ(outcome.exit_code(), 0) << (outcome.error ? outcome.error->message()
                                                        : machine.serial().output().read(0, SteadyClock::now()).bytes);
}

std::string check_ledger(const GuestMemory& memory) {
    const ledger::Finding finding = ledger::verify(PageReader(memory));
    if (!finding) {
        return {};
    }
    std::array<char, 160> text;
    std::snprintf(text.data(), text.size(), "%s, shard %u, page %llu, expected %llx, found %llx",
                  ledger::name(finding.fault), finding.shard, static_cast<unsigned long long>(finding.page),
                  static_cast<unsigned long long>(finding.expected), static_cast<unsigned long long>(finding.found));
    return text.data();
}

Gpa ledger_page(const GuestMemory& memory, std::uint64_t number) {
    const auto root = need(memory.load<ledger::Root>(Gpa{ledger::kRootAddress}));
    return Gpa{ledger::page_address(root, number)};
}

}  // namespace snapvm::test
