// SPDX-License-Identifier: Apache-2.0
#include "tests/kvm/vcpu_fields.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <map>
#include <span>

#include "vmm/vcpu/vcpu_state.h"

namespace snapvm::test {
namespace {

constexpr std::size_t kLapicRegister = 16;  // bytes from one to the next
constexpr std::size_t kLapicIrr = 0x200;
constexpr std::size_t kLapicTimer = 0x320;
constexpr std::size_t kLapicRegisters = 64;

std::string hex(std::uint64_t value) {
    std::array<char, 24> text;
    std::snprintf(text.data(), text.size(), "0x%llx", static_cast<unsigned long long>(value));
    return text.data();
}

std::uint32_t lapic_register(const kvm_lapic_state& lapic, std::size_t offset) {
    std::uint32_t value = 0;
    std::memcpy(&value, lapic.regs + offset, sizeof value);
    return value;
}

class Lister {
public:
    Lister(std::vector<Field>& out, std::string prefix) : out_(out), prefix_(std::move(prefix)) {}

    void number(const std::string& name, std::uint64_t value) { out_.emplace_back(prefix_ + name, hex(value)); }
    // Lists structs that have no padding, or whose padding KVM zeroes, in fields of 8 bytes. That
    // suffices to find a difference.
    template <class T>
    void words(const std::string& name, const T& value) {
        bytes(name, std::as_bytes(std::span(&value, 1)));
    }
    void bytes(const std::string& name, std::span<const std::byte> bytes) {
        for (std::size_t at = 0; at < bytes.size(); at += sizeof(std::uint64_t)) {
            std::uint64_t word = 0;
            std::memcpy(&word, bytes.data() + at, std::min(sizeof word, bytes.size() - at));
            number(name + " +" + hex(at), word);
        }
    }

private:
    std::vector<Field>& out_;
    std::string prefix_;
};

void list_lapic(Lister& out, const kvm_lapic_state& lapic) {
    const std::uint32_t timer_vector = lapic_register(lapic, kLapicTimer) & 0xFF;
    for (std::size_t i = 0; i < kLapicRegisters; ++i) {
        std::uint32_t value = lapic_register(lapic, i * kLapicRegister);
        if (i * kLapicRegister == kLapicIrr + timer_vector / 32 * kLapicRegister) {
            out.number("lapic irr of the timer", value >> timer_vector % 32 & 1);
            value &= ~(1U << timer_vector % 32);
        }
        out.number("lapic " + hex(i * kLapicRegister), value);
    }
}

void list_vcpu(Lister& out, const VcpuStateV1& state) {
    out.number("mp_state", state.mp_state.mp_state);
    out.words("regs", state.regs);
    out.words("sregs", state.sregs);
    out.words("xcrs", state.xcrs);
    out.words("debugregs", state.debugregs);
    out.words("events", state.events);
    out.number("tsc_khz", state.tsc_khz);
    list_lapic(out, state.lapic);
    for (const kvm_msr_entry& msr : state.msrs) {
        out.number("msr " + hex(msr.index), msr.data);
    }
    for (std::size_t i = 0; i < state.cpuid.size(); ++i) {
        out.words("cpuid " + hex(state.cpuid[i].function) + "." + hex(state.cpuid[i].index), state.cpuid[i]);
    }
    out.bytes("xsave", state.xsave);
}

}  // namespace

std::vector<Field> fields_of(const std::vector<StateRecord>& records) {
    std::vector<Field> out;
    for (const StateRecord& record : records) {
        Lister list(out, std::string(name_of(record.kind)) + " " + std::to_string(record.instance) + " ");
        list.number("version", record.version);
        list.number("size", record.bytes.size());
        const auto vcpu = record.kind == RecordKind::vcpu ? VcpuStateV1::decode(record.bytes) : VcpuStateV1{};
        if (record.kind == RecordKind::vcpu && vcpu) {
            list_vcpu(list, *vcpu);
        } else {
            list.bytes("byte", record.bytes);
        }
    }
    return out;
}

bool is_clock(std::string_view field) {
    return field.ends_with(" lapic irr of the timer") || field.ends_with(" lapic 0x390");
}

std::vector<std::string> differences(const std::vector<StateRecord>& a, const std::vector<StateRecord>& b) {
    const std::vector<Field> first = fields_of(a);
    std::map<std::string, std::string> second;
    for (Field& field : fields_of(b)) {
        second.insert(std::move(field));
    }
    std::vector<std::string> lines;
    for (const auto& [name, value] : first) {
        const auto other = second.extract(name);
        const std::string found = other ? other.mapped() : "nothing";
        if (found != value && !is_clock(name)) {
            lines.push_back(name + ": " + value + ", then " + found);
        }
    }
    for (const auto& [name, value] : second) {
        lines.push_back(name + ": nothing, then " + value);
    }
    return lines;
}

}  // namespace snapvm::test
