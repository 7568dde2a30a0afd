// SPDX-License-Identifier: Apache-2.0
#include "vmm/emulate/kernel_mode_repair.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <optional>

#include "vmm/base/try.h"
#include "vmm/emulate/decoder.h"
#include "vmm/emulate/instructions.h"
#include "vmm/emulate/system_call.h"
#include "vmm/vcpu/guest_debug.h"

namespace snapvm::emulate {
namespace {

constexpr std::uint64_t kSingleStepped = 1ULL << 14;  // of DR6

// A vCPU's extended state, through KVM's ioctls.
class VcpuExtendedState final : public ExtendedState {
public:
    VcpuExtendedState(const kvm::VcpuFd& vcpu, std::size_t size) : vcpu_(vcpu), size_(size) {}

    Result<std::vector<std::byte>> load() override {
        std::vector<std::byte> image(std::max(size_, sizeof(kvm_xsave)));
        TRY(size_ != 0 ? vcpu_.control(KVM_GET_XSAVE2, image.data(), "KVM_GET_XSAVE2")
                       : vcpu_.control(KVM_GET_XSAVE, image.data(), "KVM_GET_XSAVE"));
        return image;
    }
    Status store(std::span<const std::byte> image) override {
        std::vector<std::byte> copy(image.begin(), image.end());
        return vcpu_.control(KVM_SET_XSAVE, copy.data(), "KVM_SET_XSAVE");
    }
    Result<std::uint64_t> xcr0() override {
        const auto xcrs = TRY(vcpu_.get<kvm_xcrs>(KVM_GET_XCRS, "KVM_GET_XCRS"));
        for (const kvm_xcr& xcr :
             std::span(xcrs.xcrs).first(std::min<std::size_t>(xcrs.nr_xcrs, std::size(xcrs.xcrs)))) {
            if (xcr.xcr == 0) {
                return xcr.value;
            }
        }
        return 1;  // as after a reset
    }

private:
    const kvm::VcpuFd& vcpu_;
    std::size_t size_;
};

class KernelModeRepair final : public ExitRepair {
public:
    KernelModeRepair(const kvm::System& system, GuestMemory& memory, Decoder decoder)
        : memory_(memory),
          decoder_(std::move(decoder)),
          xsave_size_(static_cast<std::size_t>(system.capabilities().xsave2)),
          synced_((system.capabilities().sync_regs & (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS)) ==
                  (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS)) {}

    Status begin(kvm::VcpuFd& vcpu) override {
        if (synced_) {
            vcpu.shared().kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
        }
        return follow_page_fault_entry(vcpu, TRY(vcpu.get<kvm_sregs>(KVM_GET_SREGS, "KVM_GET_SREGS")));
    }

    Status look(kvm::VcpuFd& vcpu) override {
        if (synced_) {
            return follow_page_fault_entry(vcpu, vcpu.shared().s.regs.sregs);
        }
        return follow_page_fault_entry(vcpu, TRY(vcpu.get<kvm_sregs>(KVM_GET_SREGS, "KVM_GET_SREGS")));
    }

    Result<bool> repair(kvm::VcpuFd& vcpu) override {
        const kvm_run& run = vcpu.shared();
        if (run.exit_reason == KVM_EXIT_DEBUG) {
            return stopped_at_breakpoint(vcpu);
        }
        if (run.exit_reason != KVM_EXIT_INTERNAL_ERROR || run.internal.suberror != KVM_INTERNAL_ERROR_EMULATION) {
            return false;
        }
        CpuState cpu = TRY(state_of(vcpu));
        return TRY(carry_out(vcpu, cpu)) == Step::done;
    }

private:
    enum class Step : std::uint8_t { done, not_emulated };

    Result<CpuState> state_of(const kvm::VcpuFd& vcpu) const {
        if (synced_) {
            return CpuState{.regs = vcpu.shared().s.regs.regs, .sregs = vcpu.shared().s.regs.sregs};
        }
        return CpuState{.regs = TRY(vcpu.get<kvm_regs>(KVM_GET_REGS, "KVM_GET_REGS")),
                        .sregs = TRY(vcpu.get<kvm_sregs>(KVM_GET_SREGS, "KVM_GET_SREGS"))};
    }

    // SREGS first: mode and privilege decide how KVM takes the other registers. Both calls drop the
    // #UD that KVM has queued for an instruction that it does not know.
    static Status put(kvm::VcpuFd& vcpu, const CpuState& cpu) {
        if (cpu.sregs_changed) {
            TRY(vcpu.set(KVM_SET_SREGS, cpu.sregs, "KVM_SET_SREGS"));
        }
        return vcpu.set(KVM_SET_REGS, cpu.regs, "KVM_SET_REGS");
    }

    // The breakpoint must be at the right address before the guest's next system call, but the
    // guest changes the gate without an exit. So the gate is read after every exit until a system
    // call was caught there, and again for every other IDT.
    Status follow_page_fault_entry(kvm::VcpuFd& vcpu, const kvm_sregs& sregs) {
        if (proved_ && sregs.idt.base == table_) {
            return {};
        }
        if (sregs.idt.base != table_) {
            table_ = sregs.idt.base;
            proved_ = false;
        }
        const AddressSpace space(memory_, PagingMode::of(sregs));
        return debug_.set_breakpoint(vcpu, BreakpointUser::page_fault_entry, page_fault_entry(sregs, space));
    }

    Result<bool> stopped_at_breakpoint(kvm::VcpuFd& vcpu) {
        const auto& debug = vcpu.shared().debug.arch;
        if (debug_.single_step() && (debug.dr6 & kSingleStepped) != 0) {
            TRY(debug_.set_single_step(vcpu, false));
            return true;
        }
        CpuState cpu = TRY(state_of(vcpu));
        if (debug_.breakpoint(BreakpointUser::page_fault_entry) != debug.pc) {
            // The guest's own debug exception, by RFLAGS.TF or INT1. While a breakpoint is set, KVM
            // reports all of them to the VMM.
            auto registers = TRY(vcpu.get<kvm_debugregs>(KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS"));
            registers.dr6 = debug.dr6;
            TRY(vcpu.set(KVM_SET_DEBUGREGS, registers, "KVM_SET_DEBUGREGS"));
            TRY(inject(vcpu, cpu, {.vector = kVectorDebug}));
            return true;
        }
        // Few page faults are instruction fetches, and only those can be system calls.
        const AddressSpace space(memory_, PagingMode::of(cpu.sregs));
        const auto fetch = fetch_of_program(cpu, space);
        if (fetch && become_system_call(cpu, *fetch, TRY(system_call_msrs(vcpu)), space)) {
            proved_ = true;
            TRY(put(vcpu, cpu));
            return true;
        }
        // An ordinary page fault. RFLAGS.RF does not make this KVM pass a breakpoint, so the
        // instruction under it is carried out here.
        if (TRY(carry_out(vcpu, cpu)) == Step::not_emulated) {
            TRY(debug_.set_single_step(vcpu, true));
        }
        return true;
    }

    Result<SystemCallMsrs> system_call_msrs(const kvm::VcpuFd& vcpu) const {
        constexpr std::array<std::uint32_t, 3> kIndices = {kMsrStar, kMsrLstar, kMsrFmask};
        const auto found = TRY(vcpu.msrs(kIndices));
        if (found.size() != kIndices.size()) {
            return fail(ErrorKind::unsupported, "this KVM does not report the MSRs STAR, LSTAR and FMASK");
        }
        return SystemCallMsrs{.star = found[0].data, .lstar = found[1].data, .fmask = found[2].data};
    }

    Result<Step> carry_out(kvm::VcpuFd& vcpu, CpuState& cpu) {
        if ((cpu.sregs.efer & kEferLongModeActive) == 0 || cpu.sregs.cs.l == 0) {
            // Kernels leave the other modes after a few instructions, all of which KVM knows.
            return Step::not_emulated;
        }
        AddressSpace space(memory_, PagingMode::of(cpu.sregs));
        std::array<std::byte, kMaxInstruction> bytes{};
        const std::size_t size = space.peek(cpu.regs.rip, bytes);
        const std::span<const std::byte> code = std::span(bytes).first(size);
        VcpuExtendedState extended(vcpu, xsave_size_);
        const Executed done = execute(decoder_.decode(code, cpu.regs.rip), code, cpu, space, extended);
        if (done) {
            TRY(put(vcpu, cpu));
            TRY(end_interrupt_shadow(vcpu));
            return Step::done;
        }
        if (const auto* error = std::get_if<Error>(&done.error())) {
            return fail(*error);
        }
        if (const auto* exception = std::get_if<Exception>(&done.error())) {
            TRY(inject(vcpu, cpu, *exception));
            return Step::done;
        }
        return Step::not_emulated;
    }

    // Ends the shadow of MOV SS or STI, since an instruction has retired.
    static Status end_interrupt_shadow(kvm::VcpuFd& vcpu) {
        auto events = TRY(vcpu.get<kvm_vcpu_events>(KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS"));
        if (events.interrupt.shadow == 0) {
            return {};
        }
        events.interrupt.shadow = 0;
        events.flags = KVM_VCPUEVENT_VALID_SHADOW;  // leaves NMIs and INITs that came meanwhile
        return vcpu.set(KVM_SET_VCPU_EVENTS, events, "KVM_SET_VCPU_EVENTS");
    }

    static Status inject(kvm::VcpuFd& vcpu, CpuState& cpu, const Exception& exception) {
        if (exception.cr2) {
            cpu.sregs.cr2 = *exception.cr2;
            cpu.sregs_changed = true;
        }
        // Registers first: setting them drops pending exceptions.
        TRY(put(vcpu, cpu));
        auto events = TRY(vcpu.get<kvm_vcpu_events>(KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS"));
        events.interrupt.shadow = 0;
        events.flags = KVM_VCPUEVENT_VALID_SHADOW;
        if (exception.software_interrupt) {
            events.interrupt.injected = 1;
            events.interrupt.nr = exception.vector;
            events.interrupt.soft = 0;  // RIP is after the instruction already
        } else {
            events.exception.injected = 1;
            events.exception.nr = exception.vector;
            events.exception.has_error_code = exception.error_code ? 1 : 0;
            events.exception.error_code = exception.error_code.value_or(0);
        }
        return vcpu.set(KVM_SET_VCPU_EVENTS, events, "KVM_SET_VCPU_EVENTS");
    }

    GuestMemory& memory_;
    Decoder decoder_;
    std::size_t xsave_size_;
    bool synced_;  // KVM leaves the registers in the kvm_run mapping at every exit
    GuestDebug debug_;
    std::uint64_t table_ = 0;
    bool proved_ = false;
};

}  // namespace

bool kernel_mode_is_emulated() {
    static const bool emulated = [] {
        constexpr unsigned kVmx = 1U << 5, kSvm = 1U << 2;
        unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
        const bool vmx = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & kVmx) != 0;
        const bool svm = __get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) != 0 && (ecx & kSvm) != 0;
        return !vmx && !svm;
    }();
    return emulated;
}

Result<std::unique_ptr<ExitRepair>> repair_kernel_mode(const kvm::System& system, GuestMemory& memory) {
    return std::make_unique<KernelModeRepair>(system, memory, TRY(Decoder::create(CodeSize::bits64)));
}

}  // namespace snapvm::emulate
