// SPDX-License-Identifier: Apache-2.0
// What raw_restore puts into a machine, as KVM's own structs, in one file of fixed size. The bench
// writes the file from a snapshot area beforehand (floor_state.cc). raw_restore reads it inside its
// clock with one read, as the product reads its state from the area.
#pragma once

#include <linux/kvm.h>

#include <cstdint>

struct RawBlock {
    uint64_t guest_address, size;
    uint64_t offset;  ///< of the block's data in the area's file
};

struct RawState {
    static constexpr uint64_t kMagic = 0x3154415453574152;  // "RAWSTAT1"
    static constexpr uint32_t kBlocks = 8, kCpuid = 256, kMsrs = 1024, kXsave = 16384;

    uint64_t magic = 0;
    uint32_t blocks = 0, cpuid_entries = 0, msrs = 0, padding = 0;
    RawBlock block[kBlocks] = {};
    kvm_cpuid_entry2 cpuid[kCpuid] = {};
    kvm_mp_state mp_state = {};
    kvm_regs regs = {};
    kvm_sregs2 sregs = {};
    uint8_t xsave[kXsave] = {};
    kvm_xcrs xcrs = {};
    kvm_debugregs debugregs = {};
    kvm_lapic_state lapic = {};
    kvm_msr_entry msr[kMsrs] = {};
    kvm_vcpu_events events = {};
    kvm_clock_data clock = {};
    uint64_t serial_address = 0;  ///< the message to which the serial port's interrupt is routed
    uint32_t serial_data = 0, serial_masked = 0;
};
