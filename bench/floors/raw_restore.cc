// SPDX-License-Identifier: Apache-2.0
// The floor of every restore: the fewest plain system calls that bring back a machine of one vCPU
// from a snapshot area, with no code of the project. It maps the same file privately at the same
// offsets, and uses the same memory slots, the same irqchip (split) and the same saved state. It
// leaves out what makes the product safe and complete: superblocks, checksums, locks, the CPUID
// comparison, overlays, all devices but the serial port. It is one file on purpose (with
// raw_state.h, the format of the state's dump), so that it can be read from top to bottom.
//
//   raw_restore STATE AREA            restores, runs the guest, its serial output on stdout,
//                                     until killed
//   raw_restore STATE AREA --input BYTES
//                                     the same, with bytes waiting in the serial port
//   raw_restore STATE AREA --serve    one restore for each byte on stdin, to the guest's first
//                                     exit: a line of times in ns
//
// The clock covers everything from opening STATE to the return of the first KVM_RUN that the guest
// ended. STATE is one open and one read, because the product reads its state from the area inside
// its clock too. Opening /dev/kvm with --serve and tearing down are outside the clock.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bench/floors/raw_clocks.h"
#include "bench/floors/raw_state.h"

namespace {

const char *state_path = nullptr, *area_path = nullptr, *input = "";
RawState state;  // zero pages until the read, as any buffer for it would be

int kvm = -1, area = -1, vm = -1, vcpu = -1;
size_t run_bytes = 0;
kvm_run* run = nullptr;
void* memory[RawState::kBlocks];

[[noreturn]] void die(const char* what) {
    fprintf(stderr, "raw_restore: %s: %s\n", what, strerror(errno));
    _exit(1);
}
int check(int result, const char* what) {
    if (result < 0) die(what);
    return result;
}

// kvm_cpuid2, kvm_msrs and kvm_xsave end in __DECLARE_FLEX_ARRAY, which in C++ makes them larger
// than the kernel's and the ioctl numbers wrong. So they are written out here.
struct Cpuid {
    uint32_t count, padding;
    kvm_cpuid_entry2 entries[RawState::kCpuid];
};
struct Msrs {
    uint32_t count, padding;
    kvm_msr_entry entries[RawState::kMsrs];
};
constexpr unsigned long kSetCpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);
constexpr unsigned long kSetMsrs = _IOC(_IOC_WRITE, KVMIO, 0x89, 8);
constexpr unsigned long kSetXsave = _IOC(_IOC_WRITE, KVMIO, 0xa5, 4096);

void open_kvm() {
    kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    run_bytes = static_cast<size_t>(check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE"));
}

void read_state() {
    const int fd = check(open(state_path, O_RDONLY | O_CLOEXEC), state_path);
    if (read(fd, &state, sizeof state) != sizeof state || state.magic != RawState::kMagic) die("reading the state");
    close(fd);
}

void map_memory() {
    area = check(open(area_path, O_RDONLY | O_CLOEXEC), area_path);
    for (uint32_t i = 0; i < state.blocks; ++i) {
        const RawBlock& block = state.block[i];
        memory[i] = mmap(nullptr, block.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, area,
                         static_cast<off_t>(block.offset));
        if (memory[i] == MAP_FAILED) die("mmap of the area");
    }
}

void create_machine(uint64_t& slots_ns) {
    vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    kvm_enable_cap split{};
    split.cap = KVM_CAP_SPLIT_IRQCHIP;
    split.args[0] = 24;
    check(ioctl(vm, KVM_ENABLE_CAP, &split), "KVM_CAP_SPLIT_IRQCHIP");
    const uint64_t before = now_ns();
    for (uint32_t i = 0; i < state.blocks; ++i) {
        kvm_userspace_memory_region region{i, 0, state.block[i].guest_address, state.block[i].size,
                                           reinterpret_cast<uint64_t>(memory[i])};
        check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    }
    slots_ns = now_ns() - before;
    vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    void* mapped = mmap(nullptr, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (mapped == MAP_FAILED) die("mmap of kvm_run");
    run = static_cast<kvm_run*>(mapped);
}

void set_msrs() {
    static Msrs msrs;
    // KVM_SET_MSRS stops at the first MSR that it does not take. The loop goes on after that one.
    for (uint32_t done = 0; done < state.msrs; ++done) {
        msrs.count = state.msrs - done;
        memcpy(msrs.entries, state.msr + done, msrs.count * sizeof(kvm_msr_entry));
        done += static_cast<uint32_t>(check(ioctl(vcpu, kSetMsrs, &msrs), "KVM_SET_MSRS"));
    }
}

void set_state() {
    static Cpuid cpuid;
    cpuid.count = state.cpuid_entries;
    memcpy(cpuid.entries, state.cpuid, cpuid.count * sizeof(kvm_cpuid_entry2));
    check(ioctl(vcpu, kSetCpuid2, &cpuid), "KVM_SET_CPUID2");
    check(ioctl(vcpu, KVM_SET_MP_STATE, &state.mp_state), "KVM_SET_MP_STATE");
    check(ioctl(vcpu, KVM_SET_SREGS2, &state.sregs), "KVM_SET_SREGS2");
    check(ioctl(vcpu, kSetXsave, state.xsave), "KVM_SET_XSAVE");
    check(ioctl(vcpu, KVM_SET_XCRS, &state.xcrs), "KVM_SET_XCRS");
    check(ioctl(vcpu, KVM_SET_DEBUGREGS, &state.debugregs), "KVM_SET_DEBUGREGS");
    check(ioctl(vcpu, KVM_SET_LAPIC, &state.lapic), "KVM_SET_LAPIC");  // before the MSRs: it has the timer's mode
    set_msrs();  // the TSC is first, the TSC deadline last
    check(ioctl(vcpu, KVM_SET_REGS, &state.regs), "KVM_SET_REGS");
    check(ioctl(vcpu, KVM_SET_VCPU_EVENTS, &state.events), "KVM_SET_VCPU_EVENTS");
    check(ioctl(vm, KVM_SET_CLOCK, &state.clock), "KVM_SET_CLOCK");
}

void raise_serial() {
    if (state.serial_masked != 0) return;
    kvm_msi msi{};
    msi.address_lo = static_cast<uint32_t>(state.serial_address);
    msi.data = state.serial_data;
    check(ioctl(vm, KVM_SIGNAL_MSI, &msi), "KVM_SIGNAL_MSI");
}

void restore(uint64_t& slots_ns) {
    read_state();
    map_memory();
    create_machine(slots_ns);
    set_state();
    if (*input != 0) raise_serial();
}

void enter() {
    while (ioctl(vcpu, KVM_RUN, 0) < 0)
        if (errno != EINTR && errno != EAGAIN) die("KVM_RUN");
}

uint32_t port_in(uint16_t port) {
    if (port == 0x3fd) return 0x60 | (*input != 0 ? 1 : 0);
    if (port == 0x3f8) return *input != 0 ? static_cast<uint8_t>(*input++) : 0;
    return ~0U;
}

[[noreturn]] void run_for_ever() {
    for (;;) {
        enter();
        if (run->exit_reason == KVM_EXIT_MMIO) {
            if (run->mmio.is_write == 0) memset(run->mmio.data, 0xff, 8);
            continue;
        }
        if (run->exit_reason != KVM_EXIT_IO) {
            fprintf(stderr, "raw_restore: exit reason %u\n", run->exit_reason);
            _exit(1);
        }
        uint8_t* data = reinterpret_cast<uint8_t*>(run) + run->io.data_offset;
        if (run->io.direction == KVM_EXIT_IO_IN) {
            const uint32_t value = port_in(run->io.port);
            memcpy(data, &value, run->io.size);
        } else if (run->io.port == 0x3f8 && write(STDOUT_FILENO, data, run->io.count) < 0) {
            die("stdout");
        }
    }
}

void tear_down() {
    munmap(run, run_bytes);
    close(vcpu);
    close(vm);
    for (uint32_t i = 0; i < state.blocks; ++i) munmap(memory[i], state.block[i].size);
    close(area);
}

void serve() {
    char byte;
    while (read(STDIN_FILENO, &byte, 1) == 1) {
        uint64_t slots_ns = 0;
        const uint64_t start = now_ns();
        restore(slots_ns);
        enter();
        const uint64_t total = now_ns() - start;
        tear_down();
        char line[96];
        const int size =
            snprintf(line, sizeof line, "total=%lu slots=%lu rest=%lu\n", total, slots_ns, total - slots_ns);
        if (write(STDOUT_FILENO, line, static_cast<size_t>(size)) != size) die("stdout");
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) {
        fputs("usage: see the head of raw_restore.cc\n", stderr);
        return 2;
    }
    state_path = argv[1];
    area_path = argv[2];
    open_kvm();
    if (argc > 3 && strcmp(argv[3], "--serve") == 0) {
        serve();
        return 0;
    }
    if (argc > 4 && strcmp(argv[3], "--input") == 0) input = argv[4];
    uint64_t slots_ns = 0;
    restore(slots_ns);
    run_for_ever();
}
