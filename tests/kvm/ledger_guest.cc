// SPDX-License-Identifier: Apache-2.0
#include "tests/kvm/ledger_guest.h"

#include <fstream>
#include <iterator>
#include <thread>

namespace snapvm::test {
namespace {

std::string word_after(const std::string& line, const std::string& key) {
    const std::size_t at = line.find(" " + key + "=");
    if (at == std::string::npos) {
        return {};
    }
    const std::size_t begin = at + key.size() + 2;
    return line.substr(begin, line.find(' ', begin) - begin);
}

std::uint64_t number_of(const std::string& line, const std::string& key) {
    const std::string word = word_after(line, key);
    return word.empty() ? 0 : std::stoull(word);
}

}  // namespace

ledger::DiskHeader disk_header(const GuestMemory& memory) {
    const auto root = need(memory.load<ledger::Root>(Gpa{ledger::kRootAddress}));
    return need(memory.load<ledger::DiskHeader>(Gpa{root.disk}));
}

std::string check_disk(const GuestMemory& memory, const Bytes& disk) {
    const auto read = [&memory](std::uint64_t address) -> const void* {
        const auto span = memory.span(Gpa{address}, kPageSize);
        return span ? span->data() : nullptr;
    };
    const auto read_block = [&disk](std::uint64_t block) -> const void* {
        return (block + 1) * ledger::kBlockBytes <= disk.size() ? disk.data() + block * ledger::kBlockBytes : nullptr;
    };
    const ledger::Finding finding = ledger::verify_disk(read, read_block);
    return finding ? std::string(ledger::name(finding.fault)) + " block " + std::to_string(finding.page) +
                         " expected " + std::to_string(finding.expected) + " found " + std::to_string(finding.found)
                   : std::string();
}

void wait_for_records(Machine& machine, std::uint64_t count) {
    for (const auto until = soon(); disk_header(machine.memory()).submitted < count;) {
        ASSERT_LT(SteadyClock::now(), until) << machine.serial().output().read(0, SteadyClock::now()).bytes;
        std::this_thread::sleep_for(1ms);
    }
}

Bytes read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const std::string& path, const Bytes& bytes) {
    std::ofstream file(path, std::ios::binary);
    ASSERT_TRUE(file.write(bytes.data(), static_cast<std::streamsize>(bytes.size())).flush().good());
}

RngLine draw(Machine& machine) {
    std::uint64_t position = machine.serial().output().end();
    send(machine, "n");
    const auto line = wait_line(machine, "LEDGER RNG", position);
    if (!line) {
        return {.text = "no answer: " + machine.serial().output().read(0, SteadyClock::now()).bytes, .value = {}};
    }
    return {.text = *line,
            .bytes = number_of(*line, "bytes"),
            .value = word_after(*line, "value"),
            .interrupts = number_of(*line, "interrupts"),
            .notifications = number_of(*line, "notifications")};
}

void settle(Machine& machine) {
    std::uint64_t position = machine.serial().output().end();
    send(machine, "s");
    ASSERT_TRUE(wait_line(machine, "LEDGER STEPS", position).has_value())
        << machine.serial().output().read(0, SteadyClock::now()).bytes;
}

}  // namespace snapvm::test
