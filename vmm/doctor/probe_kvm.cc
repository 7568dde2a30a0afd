// SPDX-License-Identifier: Apache-2.0
// Probes KVM, with machines that execute a few instructions each.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "vmm/base/try.h"
#include "vmm/doctor/parse.h"
#include "vmm/doctor/probe.h"
#include "vmm/doctor/timing.h"
#include "vmm/kvm/ioctl.h"
#include "vmm/kvm/vm.h"

namespace snapvm::doctor {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kRepeats = 9;
// The first number of loops, for slow instructions, and the most. It grows until the loops stand
// out from the exits.
constexpr std::uint32_t kFirstLoops = 1'000, kMostLoops = 1'024'000, kMoreLoops = 4;
constexpr std::uint32_t kTscMsr = 0x10;

// Layout of guest memory: one page for each of the three levels of page tables, then the code, then
// the number of loops to make.
constexpr std::uint64_t kMemory = 2ULL << 20;
constexpr std::uint64_t kPml4 = 0x1000, kPdpt = 0x2000, kPd = 0x3000, kCode = 0x4000, kLoops = 0x5000;

// Returns how many more instructions precede a loop's exit than an empty one: mov, test, jz and the
// loop, without a jmp.
constexpr double instructions_of(std::uint32_t loops) { return 2 + 2.0 * loops; }

// Every out is an exit, so the host's clock times what is between two of them.
std::vector<std::uint8_t> program() {
    std::vector<std::uint8_t> code;
    const auto append = [&code](std::initializer_list<std::uint8_t> bytes) { code.insert(code.end(), bytes); };
    const std::initializer_list<std::uint8_t> out = {0xE6, 0xF4};  // out %al, $0xf4
    append(out);
    append(out);                                                   // 1: the cost of an exit
    append({0x8B, 0x0C, 0x25, kLoops & 0xFF, kLoops >> 8, 0, 0});  // mov kLoops, %ecx
    append({0x85, 0xC9, 0x74, 0x08});                              // test %ecx, %ecx; jz 3f
    append({0xFF, 0xC9, 0x75, 0xFC});                              // 2: dec %ecx; jnz 2b
    append(out);
    append({0xEB, 0xEB});                                          // jmp 1b; 3:
    for (int i = 0; i < 2; ++i) {
        append({0x0F, 0x31});  // rdtsc
        append(out);
    }
    append({0xEB, 0xFE});  // jmp .
    return code;
}

double microseconds_since(Clock::time_point start) {
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// A machine in long mode at CPL 0, with its memory mapped one to one.
class TinyGuest {
public:
    static Result<TinyGuest> create(const kvm::System& system) {
        Mapping memory = TRY(Mapping::anonymous(kMemory, kMemory));
        const auto put = [&](std::uint64_t at, std::uint64_t value) {
            std::memcpy(memory.data() + at, &value, sizeof value);
        };
        constexpr std::uint64_t kPresentWritable = 3, kLarge = 0x80;
        put(kPml4, kPdpt | kPresentWritable);
        put(kPdpt, kPd | kPresentWritable);
        put(kPd, kLarge | kPresentWritable);
        const std::vector<std::uint8_t> code = program();
        std::memcpy(memory.data() + kCode, code.data(), code.size());
        kvm::Vm vm = TRY(kvm::Vm::create(system));
        TRY(vm.add_slot(Gpa{0}, memory.data(), kMemory, "the doctor's guest"));
        kvm::VcpuFd vcpu = TRY(vm.create_vcpu(system, 0));
        // KVM refuses long mode if the vCPU's CPUID does not have it.
        const auto cpuid = TRY(system.supported_cpuid());
        TRY(vcpu.set_cpuid(cpuid));
        TinyGuest guest(std::move(memory), std::move(vm), std::move(vcpu));
        TRY(guest.enter_long_mode());
        return guest;
    }

    kvm::VcpuFd& vcpu() { return vcpu_; }

    // Runs to the next out. Returns how long that took, in microseconds.
    Result<double> run() {
        const auto start = Clock::now();
        int error = vcpu_.run();
        while (error == EINTR || error == EAGAIN) {
            error = vcpu_.run();
        }
        const double took = microseconds_since(start);
        if (error != 0) {
            return fail(Error::system("KVM_RUN", "the doctor's guest", error));
        }
        if (vcpu_.shared().exit_reason != KVM_EXIT_IO) {
            return fail(ErrorKind::unsupported,
                        "the doctor's guest stopped with KVM exit " + std::to_string(vcpu_.shared().exit_reason));
        }
        return took;
    }

    // Sets the number of loops between exits. With 0 the guest reports its TSC from the next exit
    // on.
    void set_loops(std::uint32_t loops) { std::memcpy(memory_.data() + kLoops, &loops, sizeof loops); }

    // Makes two exits, the second after the loops.
    Result<ExitPair> run_pair() { return ExitPair{.empty_us = TRY(run()), .loop_us = TRY(run())}; }

    // Returns the TSC as the guest reads it.
    Result<std::uint64_t> read_tsc() {
        TRY(run());
        const auto regs = TRY(vcpu_.get<kvm_regs>(KVM_GET_REGS, "KVM_GET_REGS"));
        return (regs.rdx << 32) | (regs.rax & 0xFFFFFFFF);
    }

private:
    TinyGuest(Mapping memory, kvm::Vm vm, kvm::VcpuFd vcpu)
        : memory_(std::move(memory)), vm_(std::move(vm)), vcpu_(std::move(vcpu)) {}

    Status enter_long_mode() {
        auto sregs = TRY(vcpu_.get<kvm_sregs>(KVM_GET_SREGS, "KVM_GET_SREGS"));
        sregs.cr0 = 0x80000011;  // paging, ET, protection
        sregs.cr3 = kPml4;
        sregs.cr4 = 0x20;    // PAE
        sregs.efer = 0x500;  // LME, LMA
        kvm_segment data{};
        data.limit = 0xFFFFFFFF;
        data.selector = 0x10;
        data.type = 3;
        data.present = 1;
        data.db = 1;
        data.s = 1;
        data.g = 1;
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
        sregs.cs = data;
        sregs.cs.selector = 8;
        sregs.cs.type = 11;
        sregs.cs.db = 0;
        sregs.cs.l = 1;
        TRY(vcpu_.set(KVM_SET_SREGS, sregs, "KVM_SET_SREGS"));
        kvm_regs regs{};
        regs.rip = kCode;
        regs.rsp = kCode;
        regs.rflags = 2;
        TRY(vcpu_.set(KVM_SET_REGS, regs, "KVM_SET_REGS"));
        return {};
    }

    // Destroyed in reverse order: the memory goes after the machine that maps it.
    Mapping memory_;
    kvm::Vm vm_;
    kvm::VcpuFd vcpu_;
};

Status measure_guest(const kvm::System& system, KvmFacts& facts) {
    TinyGuest guest = TRY(TinyGuest::create(system));
    TRY(guest.run());  // the first entry includes set-up work
    std::array<ExitPair, kRepeats> pairs{};
    for (std::uint32_t loops = kFirstLoops; loops <= kMostLoops; loops *= kMoreLoops) {
        guest.set_loops(loops);
        for (ExitPair& pair : pairs) {
            pair = TRY(guest.run_pair());
        }
        facts.exit_us = exit_us(pairs);
        facts.kernel_instruction_ns = instruction_ns(pairs, instructions_of(loops));
        if (loop_stands_out(pairs)) {
            break;
        }
    }
    guest.set_loops(0);
    TRY(guest.run());
    facts.kernel_emulated = facts.kernel_instruction_ns.value_or(0) > kEmulatedInstructionNs;
    facts.tsc_khz = guest.vcpu().tsc_khz();

    // Some KVMs accept the value but keep the host's counter, so the guest reads it. The value is
    // far ahead, since KVM treats small differences as an attempt to synchronise vCPUs.
    constexpr std::uint64_t kAhead = 1ULL << 42, kSlack = 1ULL << 38;
    const std::uint64_t before = TRY(guest.read_tsc());
    const std::array<kvm_msr_entry, 1> tsc = {{{.index = kTscMsr, .reserved = 0, .data = before + kAhead}}};
    const auto taken = guest.vcpu().set_msrs(tsc);
    if (taken && *taken == 1) {
        const std::uint64_t after = TRY(guest.read_tsc());
        facts.tsc_settable = after - before >= kAhead && after - before < kAhead + kSlack;
    }
    return {};
}

Result<double> create_vm_p50(const kvm::System& system) {
    std::vector<double> samples(20);
    for (double& sample : samples) {
        const auto start = Clock::now();
        const UniqueFd vm(TRY(KVM_IOCTL(system.fd(), KVM_CREATE_VM, 0UL, "/dev/kvm")));
        sample = microseconds_since(start);  // before the machine is destroyed
    }
    return median(std::move(samples));
}

}  // namespace

Result<KvmFacts> probe_kvm() {
    const kvm::System system = TRY(kvm::System::open());
    KvmFacts facts;
    facts.capabilities = system.capabilities();
    facts.create_vm_us = TRY(create_vm_p50(system));
    TRY(measure_guest(system, facts));
    facts.nx_huge_pages =
        chosen_word(read_file("/sys/module/kvm/parameters/nx_huge_pages", 64).value_or(std::string()));
    return facts;
}

}  // namespace snapvm::doctor
