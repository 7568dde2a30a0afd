// SPDX-License-Identifier: Apache-2.0
// Encodes and decodes VcpuStateV1. Each struct's fields are listed once, for both directions.
#include <limits>
#include <type_traits>

#include "vmm/base/bytes.h"
#include "vmm/base/try.h"
#include "vmm/vcpu/vcpu_state.h"

namespace snapvm {
namespace {

constexpr std::size_t kMaxCpuid = 256;
constexpr std::size_t kMaxMsrs = 1024;
constexpr std::size_t kMaxXsave = 64 << 10;

// The two directions of a field list. The kernel's fields are __u64 and the like, hence the
// conversion to the unsigned type of the same size.
class Writer {
public:
    static constexpr bool kReads = false;
    template <class... T>
    void operator()(const T&... fields) {
        (one(fields), ...);
    }
    void bytes(std::span<const std::byte> fixed) { out.raw(fixed); }
    Encoder out;

private:
    template <class T>
    void one(const T& field) {
        if constexpr (std::is_array_v<T>) {
            for (const auto& element : field) {
                one(element);
            }
        } else {
            out.put(static_cast<std::make_unsigned_t<T>>(field));
        }
    }
};

class Reader {
public:
    static constexpr bool kReads = true;
    explicit Reader(std::span<const std::byte> bytes) : in(bytes) {}
    template <class... T>
    void operator()(T&... fields) {
        (one(fields), ...);
    }
    void bytes(std::span<std::byte> fixed) {
        if (auto part = in.take(fixed.size()); !part.empty()) {
            std::memcpy(fixed.data(), part.data(), part.size());
        }
    }
    // Makes the decoder bad: no input is that long.
    void refuse() { (void)in.take(std::numeric_limits<std::size_t>::max()); }
    Decoder in;

private:
    template <class T>
    void one(T& field) {
        if constexpr (std::is_array_v<T>) {
            for (auto& element : field) {
                one(element);
            }
        } else {
            field = static_cast<T>(in.get<std::make_unsigned_t<T>>());
        }
    }
};

void fields(auto& io, auto& r, std::type_identity<kvm_regs> /*of*/) {
    io(r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15,
       r.rip, r.rflags);
}
void segment(auto& io, auto& s) {
    io(s.base, s.limit, s.selector, s.type, s.present, s.dpl, s.db, s.s, s.l, s.g, s.avl, s.unusable);
}
void fields(auto& io, auto& s, std::type_identity<kvm_sregs2> /*of*/) {
    segment(io, s.cs);
    segment(io, s.ds);
    segment(io, s.es);
    segment(io, s.fs);
    segment(io, s.gs);
    segment(io, s.ss);
    segment(io, s.tr);
    segment(io, s.ldt);
    io(s.gdt.base, s.gdt.limit, s.idt.base, s.idt.limit);
    io(s.cr0, s.cr2, s.cr3, s.cr4, s.cr8, s.efer, s.apic_base, s.flags, s.pdptrs);
}
void fields(auto& io, auto& x, std::type_identity<kvm_xcrs> /*of*/) {
    io(x.nr_xcrs, x.flags);
    for (auto& xcr : x.xcrs) {
        io(xcr.xcr, xcr.value);
    }
}
void fields(auto& io, auto& d, std::type_identity<kvm_debugregs> /*of*/) { io(d.db, d.dr6, d.dr7, d.flags); }
void fields(auto& io, auto& e, std::type_identity<kvm_vcpu_events> /*of*/) {
    io(e.exception.injected, e.exception.nr, e.exception.has_error_code, e.exception.pending, e.exception.error_code);
    io(e.interrupt.injected, e.interrupt.nr, e.interrupt.soft, e.interrupt.shadow);
    io(e.nmi.injected, e.nmi.pending, e.nmi.masked);
    io(e.sipi_vector, e.flags);
    io(e.smi.smm, e.smi.pending, e.smi.smm_inside_nmi, e.smi.latched_init);
    io(e.triple_fault.pending, e.exception_has_payload, e.exception_payload);
}
template <class T>
void fields(auto& io, T& value) {
    fields(io, value, std::type_identity<std::remove_const_t<T>>{});
}

// Codes a vector: a u32 count, then the fields of each element.
template <class Io, class Vector>
void list(Io& io, Vector& vector, std::size_t limit, auto element_fields) {
    auto count = static_cast<std::uint32_t>(vector.size());
    io(count);
    if constexpr (Io::kReads) {
        // The count is untrusted.
        if (count > limit) {
            io.refuse();
            count = 0;
        }
        vector.resize(count);
    }
    for (auto& element : vector) {
        element_fields(element);
    }
}

void all_fields(auto& io, auto& state) {
    list(io, state.cpuid, kMaxCpuid, [&](auto& e) { io(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx); });
    io(state.mp_state.mp_state);
    fields(io, state.regs);
    fields(io, state.sregs);
    list(io, state.xsave, kMaxXsave, [](auto& /*byte: as one run below*/) {});
    io.bytes(std::as_writable_bytes(std::span(const_cast<std::byte*>(state.xsave.data()), state.xsave.size())));
    fields(io, state.xcrs);
    fields(io, state.debugregs);
    io.bytes(std::as_writable_bytes(std::span(const_cast<char*>(state.lapic.regs), sizeof state.lapic.regs)));
    list(io, state.msrs, kMaxMsrs, [&](auto& msr) { io(msr.index, msr.data); });
    fields(io, state.events);
    io(state.tsc_khz);
}

}  // namespace

std::vector<std::byte> VcpuStateV1::encode() const {
    Writer writer;
    all_fields(writer, *this);
    return writer.out.take();
}

Result<VcpuStateV1> VcpuStateV1::decode(std::span<const std::byte> bytes) {
    VcpuStateV1 state;
    Reader reader(bytes);
    all_fields(reader, state);
    TRY(reader.in.finish("vCPU state"));
    if (state.xsave.size() < sizeof(kvm_xsave) || state.xcrs.nr_xcrs > KVM_MAX_XCRS) {
        return fail(ErrorKind::invalid, "vCPU state has an impossible XSAVE area or number of XCRs");
    }
    return state;
}

}  // namespace snapvm
