// SPDX-License-Identifier: Apache-2.0
#include "vmm/doctor/report.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <system_error>

#include "vmm/base/printable.h"
#include "vmm/doctor/advice.h"

namespace snapvm::doctor {
namespace {

using Json = nlohmann::ordered_json;

template <class T>
Json or_null(const std::optional<T>& value) {
    return value ? Json(*value) : Json(nullptr);
}

Json capabilities_json(const kvm::Capabilities& caps) {
    return {{"max_vcpus", caps.max_vcpus},
            {"memory_slots", caps.memory_slots},
            {"split_irqchip", caps.split_irqchip},
            {"immediate_exit", caps.immediate_exit},
            {"signal_msi", caps.signal_msi},
            {"irqfd", caps.irqfd},
            {"ioeventfd", caps.ioeventfd},
            {"xsave2", caps.xsave2},
            {"sregs2", caps.sregs2},
            {"kvmclock_ctrl", caps.kvmclock_ctrl},
            {"adjust_clock", caps.adjust_clock},
            {"tsc_control", caps.tsc_control},
            {"tsc_deadline_timer", caps.tsc_deadline_timer},
            {"manual_dirty_log", caps.manual_dirty_log},
            {"dirty_ring_entries", caps.dirty_ring / static_cast<int>(sizeof(kvm_dirty_gfn))},
            {"x86_user_space_msr", caps.x86_user_space_msr},
            {"exit_on_emulation_failure", caps.exit_on_emulation_failure},
            {"binary_stats", caps.binary_stats},
            {"sync_regs", caps.sync_regs},
            {"pre_fault_memory", caps.pre_fault_memory},
            {"memory_attributes", caps.memory_attributes}};
}

std::string text(const char* format, double value) {
    char buffer[64];
    std::snprintf(buffer, sizeof buffer, format, value);
    return buffer;
}

std::string yes(bool value) { return value ? "yes" : "no"; }
std::string or_unknown(const std::string& value) { return value.empty() ? "unknown" : value; }
std::string or_unknown(std::optional<std::uint64_t> value) { return value ? std::to_string(*value) : "unknown"; }
std::string mebibytes(std::optional<std::uint64_t> bytes) {
    return bytes ? std::to_string(*bytes >> 20) + " MiB" : "unknown";
}

class Table {
public:
    void row(const char* name, const std::string& value) {
        char head[40];
        std::snprintf(head, sizeof head, "%-24s", name);
        text_ += head + value + "\n";
    }
    std::string take() { return std::move(text_); }

private:
    std::string text_;
};

std::string userfaultfd_text(const UserfaultfdFacts& facts) {
    if (!facts.available) {
        return "no";
    }
    std::string kinds = "missing";
    kinds += facts.minor ? ", minor" : "";
    kinds += facts.write_protect ? ", write-protect" : "";
    return kinds +
           "; for guests' faults: " + (facts.kernel_faults.empty() ? "not for this user" : "by " + facts.kernel_faults);
}

}  // namespace

std::string facts_json(const HostFacts& facts, bool advice) {
    const KvmFacts& kvm = facts.kvm;
    Json json = {
        {"system",
         {{"kernel", facts.system.kernel},
          {"cpu_model", facts.system.cpu_model},
          {"cpus", facts.system.cpus},
          {"root", facts.system.root},
          {"hypervisor", facts.system.hypervisor}}},
        {"kvm",
         {{"api_version", KVM_API_VERSION},
          {"capabilities", capabilities_json(kvm.capabilities)},
          {"create_vm_us", kvm.create_vm_us},
          {"exit_us", kvm.exit_us},
          {"kernel_instruction_ns", or_null(kvm.kernel_instruction_ns)},
          {"kernel_emulated", kvm.kernel_emulated},
          {"tsc_settable", kvm.tsc_settable},
          {"tsc_khz", kvm.tsc_khz},
          {"nx_huge_pages", kvm.nx_huge_pages}}},
        {"userfaultfd",
         {{"available", facts.userfaultfd.available},
          {"missing", facts.userfaultfd.missing},
          {"minor", facts.userfaultfd.minor},
          {"write_protect", facts.userfaultfd.write_protect},
          {"protect_unpopulated", facts.userfaultfd.protect_unpopulated},
          {"kernel_faults", facts.userfaultfd.kernel_faults},
          {"sysctl", facts.userfaultfd.sysctl}}},
        {"io_uring",
         {{"available", facts.io_uring.error == 0},
          {"errno", facts.io_uring.error},
          {"sysctl", facts.io_uring.sysctl}}},
        {"huge_pages",
         {{"enabled", facts.huge_pages.enabled},
          {"defrag", facts.huge_pages.defrag},
          {"shmem_enabled", facts.huge_pages.shmem_enabled},
          {"reserved", or_null(facts.huge_pages.reserved)}}},
        {"cgroup",
         {{"version", facts.cgroup.version},
          {"favordynmods", facts.cgroup.favordynmods},
          {"cpu_limit", or_null(facts.cgroup.cpu_limit)},
          {"memory_limit", or_null(facts.cgroup.memory_limit)}}},
        {"memory",
         {{"total", or_null(facts.memory.total)},
          {"available", or_null(facts.memory.available)},
          {"swap", or_null(facts.memory.swap)},
          {"overcommit", facts.memory.overcommit},
          {"max_map_count", or_null(facts.memory.max_map_count)},
          {"locked_limit", or_null(facts.memory.locked_limit)},
          {"open_files", facts.memory.open_files}}},
    };
    if (advice) {
        json["advice"] = Json::array();
        for (const Advice& line : advise(facts)) {
            json["advice"].push_back({{"topic", line.topic}, {"text", line.text}});
        }
    }
    // File names and model names may have any bytes. dump must not throw on them.
    return json_text(json);
}

std::string facts_table(const HostFacts& facts) {
    const KvmFacts& kvm = facts.kvm;
    const kvm::Capabilities& caps = kvm.capabilities;
    Table table;
    table.row("kernel", facts.system.kernel + (facts.system.hypervisor ? " (a virtual machine)" : ""));
    table.row("processor", facts.system.cpu_model + ", " + std::to_string(facts.system.cpus) + " usable CPUs");
    table.row("KVM", "API version " + std::to_string(KVM_API_VERSION) + ", " + std::to_string(caps.max_vcpus) +
                         " vCPUs, " + std::to_string(caps.memory_slots) + " memory slots");
    table.row("KVM_CREATE_VM", text("%.2f ms (p50)", kvm.create_vm_us / 1000));
    table.row("exit from CPL 0", text("%.1f us", kvm.exit_us));
    table.row("kernel mode", kvm.kernel_instruction_ns
                                 ? text("%.2f ns an instruction", *kvm.kernel_instruction_ns) +
                                       (kvm.kernel_emulated ? ", emulated" : ", native")
                                 : "not measured: the times of exits vary by more than an instruction takes");
    table.row("TSC", std::to_string(kvm.tsc_khz / 1000) + " MHz; can be set: " + yes(kvm.tsc_settable) +
                         "; can be scaled: " + yes(caps.tsc_control != 0));
    table.row("dirty log", std::string("yes, manual protect ") + (caps.manual_dirty_log != 0 ? "yes" : "no") +
                               ((caps.manual_dirty_log & 2) != 0 ? ", initially set" : ""));
    table.row("dirty ring",
              caps.dirty_ring == 0
                  ? "no"
                  : std::to_string(caps.dirty_ring / static_cast<int>(sizeof(kvm_dirty_gfn))) + " entries");
    table.row("xsave2, sregs2", std::to_string(caps.xsave2) + " bytes, " + yes(caps.sregs2 != 0));
    table.row("pre-fault memory", yes(caps.pre_fault_memory != 0));
    table.row("nx_huge_pages", or_unknown(kvm.nx_huge_pages));
    table.row("userfaultfd", userfaultfd_text(facts.userfaultfd));
    table.row("io_uring",
              facts.io_uring.error == 0 ? "yes" : "no: " + std::generic_category().message(facts.io_uring.error));
    table.row("huge pages", "enabled " + or_unknown(facts.huge_pages.enabled) + ", defrag " +
                                or_unknown(facts.huge_pages.defrag) + ", shmem " +
                                or_unknown(facts.huge_pages.shmem_enabled) + ", reserved " +
                                or_unknown(facts.huge_pages.reserved));
    table.row("cgroup", or_unknown(facts.cgroup.version) + (facts.cgroup.favordynmods ? ", favordynmods" : "") +
                            "; CPU limit " + (facts.cgroup.cpu_limit ? text("%.2f", *facts.cgroup.cpu_limit) : "none") +
                            ", memory limit " +
                            (facts.cgroup.memory_limit ? mebibytes(facts.cgroup.memory_limit) : "none"));
    table.row("memory", mebibytes(facts.memory.available) + " of " + mebibytes(facts.memory.total) +
                            " available, swap " + mebibytes(facts.memory.swap) + ", overcommit " +
                            (facts.memory.overcommit < 0 ? "unknown" : std::to_string(facts.memory.overcommit)));
    table.row("limits", "mappings " + or_unknown(facts.memory.max_map_count) + ", locked memory " +
                            (facts.memory.locked_limit ? mebibytes(facts.memory.locked_limit) : "unlimited") +
                            ", open files " + std::to_string(facts.memory.open_files));
    std::string result = table.take();
    for (const Advice& line : advise(facts)) {
        result += "advice: " + line.text + "\n";
    }
    return result;
}

}  // namespace snapvm::doctor
