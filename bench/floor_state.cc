// SPDX-License-Identifier: Apache-2.0
#include "bench/floor_state.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>

#include "vmm/kvm/abi.h"
// This include follows abi.h, which makes the kernel's header usable from C++.
#include "bench/floors/raw_state.h"
#include "devices/platform/ioapic/ioapic.h"
#include "snapshot/area/origin.h"
#include "snapshot/restore/restore.h"
#include "vmm/base/fd.h"
#include "vmm/base/try.h"
#include "vmm/machine/clock_state.h"
#include "vmm/platform/platform.h"
#include "vmm/vcpu/vcpu_state.h"

namespace snapvm::bench {
namespace {

template <class T, std::size_t kRoom>
Status copy_list(const std::vector<T>& from, T (&to)[kRoom], std::uint32_t& count, const char* what) {
    if (from.size() > kRoom) {
        return fail(ErrorKind::unsupported,
                    std::string("raw_state.h has no room for ") + std::to_string(from.size()) + " " + what);
    }
    std::ranges::copy(from, to);
    count = static_cast<std::uint32_t>(from.size());
    return {};
}

Status put_vcpu(const VcpuStateV1& vcpu, RawState& raw) {
    TRY(copy_list(vcpu.cpuid, raw.cpuid, raw.cpuid_entries, "CPUID entries"));
    TRY(copy_list(vcpu.msrs, raw.msr, raw.msrs, "MSRs"));
    if (vcpu.xsave.size() > sizeof raw.xsave) {
        return fail(ErrorKind::unsupported, "raw_state.h has no room for this XSAVE area");
    }
    std::memcpy(raw.xsave, vcpu.xsave.data(), vcpu.xsave.size());
    raw.mp_state = vcpu.mp_state;
    raw.regs = vcpu.regs;
    raw.sregs = vcpu.sregs;
    raw.xcrs = vcpu.xcrs;
    raw.debugregs = vcpu.debugregs;
    raw.lapic = vcpu.lapic;
    raw.events = vcpu.events;
    return {};
}

// Computes the message as the IOAPIC does (82093AA data sheet, section 3.2.4): the address has the
// destination, the data has vector and mode.
void put_serial_route(const IoApicStateV1& ioapic, RawState& raw) {
    const std::uint64_t entry = ioapic.redirection[platform::kSerialGsi];
    raw.serial_address = 0xFEE00000 | (entry >> 56) << 12 | (entry >> 11 & 1) << 2;
    raw.serial_data = static_cast<std::uint32_t>(entry & 0x7FF);
    raw.serial_masked = static_cast<std::uint32_t>(entry >> 16 & 1);
}

}  // namespace

Status write_floor_state(const AreaPath& area, const std::string& path) {
    const RestoredSnapshot snapshot = TRY(open_snapshot(area));
    const auto raw = std::make_unique<RawState>();
    raw->magic = RawState::kMagic;
    if (snapshot.saved.config.cpus != 1 || snapshot.memory.blocks().size() > RawState::kBlocks) {
        return fail(ErrorKind::unsupported, "raw_restore restores machines of one vCPU and 8 memory blocks at most");
    }
    for (const MemoryBlock& block : snapshot.memory.blocks()) {
        const auto& origin = static_cast<const SnapshotOrigin&>(*block.origin());
        const Section* data = origin.superblock().find(SectionKind::data, static_cast<std::uint32_t>(block.spec().id));
        raw->block[raw->blocks++] = {block.spec().base.value, block.spec().size, origin.file().base + data->offset};
    }
    for (const StateRecord& record : snapshot.saved.records) {
        if (record.kind == RecordKind::clock) {
            raw->clock = TRY(decode_clock(record));
        } else if (record.kind == RecordKind::vcpu) {
            TRY(put_vcpu(TRY(VcpuStateV1::decode(record.bytes)), *raw));
        } else if (record.kind == RecordKind::ioapic) {
            put_serial_route(TRY(IoApicStateV1::decode(record.bytes)), *raw);
        }
    }
    const UniqueFd file = TRY(open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    return write_all_at(file.get(), std::as_bytes(std::span(raw.get(), 1)), 0, path);
}

}  // namespace snapvm::bench
