// SPDX-License-Identifier: Apache-2.0
// A machine by plain system calls, with no code of the project: memory (anonymous, huge pages
// advised), slots, the split irqchip, the few devices that the ledger guest needs, vCPUs. The
// floors that boot a guest (raw_balloon.cc, raw_boot.cc, raw_live.cc) are programs of one file with
// this header. Each of those files says what it measures.
#pragma once

#include <elf.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "bench/floors/raw_clocks.h"

namespace {

constexpr uint64_t kLowEnd = 3ULL << 30, kHigh = 4ULL << 30, kHuge = 2 << 20;
constexpr uint64_t kStartInfo = 0x6000, kMemoryMap = 0x7000, kPageTables = 0x9000, kCommandLine = 0x20000;

std::string elf_path, command_line;
uint64_t memory_bytes = 0;
int cpus = 1;
bool linux64 = false, full_irqchip = false, small_pages = false;

// Each program defines these functions.
void before_slots();  // called when the VM exists and has no memory yet
void ready();  // called when the guest has reported READY, under device_lock
void mark(uint32_t value);  // called at each MARK, under device_lock
void before_run(int vcpu);  // called on the vCPU's thread before each KVM_RUN

int vm = -1;
uint8_t *low = nullptr, *high = nullptr;
uint64_t low_bytes = 0, high_bytes = 0;

std::vector<std::pair<const char*, uint64_t>> parts;
void part(const char* name) { parts.emplace_back(name, now_ns()); }

[[noreturn]] void end(const char* what, int code) {
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, what);
    _exit(code);
}
[[noreturn]] void die(const char* what) { end((std::string(what) + ": " + strerror(errno)).c_str(), 1); }
int check(int result, const char* what) {
    if (result < 0) die(what);
    return result;
}

// --- memory and boot data ---

uint8_t* anonymous(uint64_t size) {
    // The alignment makes guest and host agree where huge pages begin.
    void* p = mmap(nullptr, size + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) die("mmap");
    auto* aligned = reinterpret_cast<uint8_t*>((reinterpret_cast<uint64_t>(p) + kHuge - 1) & ~(kHuge - 1));
    check(madvise(aligned, size, small_pages ? MADV_NOHUGEPAGE : MADV_HUGEPAGE), "madvise");
    return aligned;
}

uint8_t* guest(uint64_t address, uint64_t size) {
    if (address < low_bytes && size <= low_bytes - address) return low + address;
    if (address >= kHigh && address - kHigh < high_bytes && size <= high_bytes - (address - kHigh))
        return high + (address - kHigh);
    end("an address is outside of guest memory", 1);
}
template <typename T>
void put(uint64_t address, T value) {
    memcpy(guest(address, sizeof value), &value, sizeof value);
}

void set_slot(uint32_t slot, uint64_t address, uint64_t size, void* host, uint32_t flags = 0) {
    kvm_userspace_memory_region region{slot, flags, address, size, reinterpret_cast<uint64_t>(host)};
    check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

struct Entries {
    uint64_t pvh, linux64;
};
Entries load_elf() {
    const int fd = check(open(elf_path.c_str(), O_RDONLY | O_CLOEXEC), elf_path.c_str());
    const auto size = static_cast<size_t>(lseek(fd, 0, SEEK_END));
    auto* file = static_cast<uint8_t*>(mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0));
    if (file == MAP_FAILED) die("mmap of the ELF");
    const auto* header = reinterpret_cast<const Elf64_Ehdr*>(file);
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) die("the kernel is not an ELF file");
    const auto* program = reinterpret_cast<const Elf64_Phdr*>(file + header->e_phoff);
    Entries entries{0, header->e_entry};
    for (int i = 0; i < header->e_phnum; ++i) {
        const Elf64_Phdr& p = program[i];
        if (p.p_type == PT_LOAD) memcpy(guest(p.p_paddr, p.p_memsz), file + p.p_offset, p.p_filesz);
        if (p.p_type != PT_NOTE) continue;
        for (uint64_t at = 0; at + sizeof(Elf64_Nhdr) < p.p_filesz;) {
            const auto* note = reinterpret_cast<const Elf64_Nhdr*>(file + p.p_offset + at);
            const uint64_t data = at + sizeof *note + ((note->n_namesz + 3) & ~3U);
            if (note->n_type == 18) memcpy(&entries.pvh, file + p.p_offset + data, 4);
            at = data + ((note->n_descsz + 3) & ~3U);
        }
    }
    return entries;
}

void write_boot_data() {
    memcpy(guest(kCommandLine, command_line.size() + 1), command_line.c_str(), command_line.size() + 1);
    struct {
        uint64_t address, size;
        uint32_t type, reserved;
    } map[4] = {{0, 0x9fc00, 1, 0},
                {0x9fc00, 0x60400, 2, 0},
                {0x100000, low_bytes - 0x100000, 1, 0},
                {kHigh, high_bytes, 1, 0}};
    const uint32_t entries = high_bytes != 0 ? 4 : 3;
    if (!linux64) {
        memcpy(guest(kMemoryMap, sizeof map), map, sizeof map);
        put<uint32_t>(kStartInfo, 0x336ec578);
        put<uint32_t>(kStartInfo + 4, 1);
        put<uint64_t>(kStartInfo + 24, kCommandLine);
        put<uint64_t>(kStartInfo + 40, kMemoryMap);
        put<uint32_t>(kStartInfo + 48, entries);
        return;
    }
    put<uint32_t>(kMemoryMap + 0x228, kCommandLine);  // boot_params are where the memory map would be
    put<uint8_t>(kMemoryMap + 0x1e8, static_cast<uint8_t>(entries));
    for (uint32_t i = 0; i < entries; ++i) memcpy(guest(kMemoryMap + 0x2d0 + i * 20, 20), &map[i], 20);
    put<uint64_t>(kPageTables, (kPageTables + 0x1000) | 3);
    for (uint64_t g = 0; g < 4; ++g) {
        put<uint64_t>(kPageTables + 0x1000 + g * 8, (kPageTables + 0x2000 + g * 0x1000) | 3);
        for (uint64_t i = 0; i < 512; ++i)
            put<uint64_t>(kPageTables + 0x2000 + g * 0x1000 + i * 8, g << 30 | i << 21 | 0x83);
    }
}

// --- devices: those that the ledger guest needs ---

std::mutex device_lock;
std::deque<uint8_t> input;
uint8_t interrupt_enable = 0;
uint32_t ioapic_index = 0, route_low = 1 << 16, route_high = 0;

void raise_serial() {
    if ((interrupt_enable & 1) == 0 || input.empty()) return;
    if (full_irqchip) {
        for (kvm_irq_level pin : {kvm_irq_level{{4}, 1}, kvm_irq_level{{4}, 0}})
            check(ioctl(vm, KVM_IRQ_LINE, &pin), "KVM_IRQ_LINE");
        return;
    }
    if ((route_low & 1 << 16) != 0) return;  // masked
    kvm_msi msi{};
    msi.address_lo = 0xfee00000 | (route_high >> 24) << 12;
    msi.data = route_low & 0xff;
    check(ioctl(vm, KVM_SIGNAL_MSI, &msi), "KVM_SIGNAL_MSI");
}

void port_out(uint16_t port, const uint8_t* data, uint32_t size, uint32_t count) {
    uint32_t value = 0;
    memcpy(&value, data, size);
    if (port == 0x3f8 && write(STDOUT_FILENO, data, count) < 0) die("stdout");
    if (port == 0x3f9) {
        interrupt_enable = static_cast<uint8_t>(value);
        raise_serial();
    }
    if (port == 0x64 && value == 0xfe) end("reboot", 0);
    if (port == 0x600 && value == 0x34) end("power off", 0);
    if (port == 0xf4) _exit(static_cast<int>(value << 1 | 1) & 0xff);
    if (port == 0x5f0) ready();
    if (port == 0x5f4) _exit(static_cast<int>(value & 0xff));
    if (port == 0x5f8) mark(value);
}

uint32_t port_in(uint16_t port) {
    if (port == 0x5f0) return 0x56504e53;
    if (port == 0x3fd) return 0x60 | (input.empty() ? 0 : 1);
    if (port != 0x3f8) return ~0U;
    if (input.empty()) return 0;
    const uint8_t byte = input.front();
    input.pop_front();
    return byte;
}

void mmio(kvm_run* run) {
    uint32_t value = 0;
    memcpy(&value, run->mmio.data, 4);
    const uint64_t at = run->mmio.phys_addr;
    if (run->mmio.is_write != 0) {
        if (at == 0xfec00000) ioapic_index = value;
        if (at == 0xfec00010 && ioapic_index == 0x18) route_low = value;
        if (at == 0xfec00010 && ioapic_index == 0x19) route_high = value;
        return;
    }
    memset(run->mmio.data, 0xff, 8);
    if (at == 0xfec00010) value = ioapic_index == 1 ? 0x170011 : ioapic_index == 0x18 ? route_low : route_high;
    if (at == 0xfec00010) memcpy(run->mmio.data, &value, 4);
}

// --- vCPUs ---

struct Vcpu {
    int id, fd;
    kvm_run* run;
};
std::vector<Vcpu> vcpus;

// The kernel header's kvm_cpuid2 ends in __DECLARE_FLEX_ARRAY, which in C++ begins with an empty
// struct of size 1. Entries and ioctl number would be wrong, so both are written out here.
struct Cpuid {
    uint32_t nent, padding;
    kvm_cpuid_entry2 entries[256];
};
constexpr unsigned long kGetSupportedCpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8);
constexpr unsigned long kSetCpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);

void set_cpuid(const Vcpu& vcpu, Cpuid* cpuid) {
    for (uint32_t i = 0; i < cpuid->nent; ++i) {
        kvm_cpuid_entry2& e = cpuid->entries[i];
        if (e.function == 1) {
            e.ebx = (e.ebx & 0x00ffffff) | static_cast<uint32_t>(vcpu.id) << 24;
            e.ecx |= 1 << 24;  // KVM has the TSC deadline timer with an in-kernel LAPIC, and does not report it
        }
        if (e.function == 0xb) e.edx = static_cast<uint32_t>(vcpu.id);
    }
    check(ioctl(vcpu.fd, kSetCpuid2, cpuid), "KVM_SET_CPUID2");
}

void set_registers(const Vcpu& vcpu, const Entries& entries) {
    kvm_sregs s;
    check(ioctl(vcpu.fd, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
    kvm_segment data{};
    data.limit = 0xffffffff;
    data.type = 3, data.present = 1, data.s = 1, data.g = 1, data.db = 1, data.selector = 0x10;
    s.ds = s.es = s.fs = s.gs = s.ss = s.cs = data;
    s.cs.type = 0xb, s.cs.selector = 8;
    s.cr0 = 0x11;
    kvm_regs r{};
    r.rflags = 2;
    if (linux64) {
        s.cs.l = 1, s.cs.db = 0;
        s.cr3 = kPageTables, s.cr4 = 0x20, s.cr0 = 0x80000011, s.efer = 0x500;
        r.rip = entries.linux64, r.rsi = kMemoryMap;
    } else {
        r.rip = entries.pvh, r.rbx = kStartInfo;
    }
    check(ioctl(vcpu.fd, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
    check(ioctl(vcpu.fd, KVM_SET_REGS, &r), "KVM_SET_REGS");
}

void* run_vcpu(void* argument) {
    const Vcpu& vcpu = *static_cast<Vcpu*>(argument);
    kvm_run* run = vcpu.run;
    for (;;) {
        before_run(vcpu.id);
        if (ioctl(vcpu.fd, KVM_RUN, 0) < 0) {
            if (errno == EINTR || errno == EAGAIN) continue;  // EAGAIN: INIT woke the vCPU, exit_reason is not valid
            die("KVM_RUN");
        }
        const std::lock_guard lock(device_lock);
        if (run->exit_reason == KVM_EXIT_IO) {
            uint8_t* data = reinterpret_cast<uint8_t*>(run) + run->io.data_offset;
            if (run->io.direction == KVM_EXIT_IO_OUT) {
                port_out(run->io.port, data, run->io.size, run->io.count);
                continue;
            }
            const uint32_t value = port_in(run->io.port);
            memcpy(data, &value, run->io.size);
        } else if (run->exit_reason == KVM_EXIT_MMIO) {
            mmio(run);
        } else if (run->exit_reason == KVM_EXIT_SHUTDOWN) {
            end("triple fault", 4);
        } else {
            end(("exit reason " + std::to_string(run->exit_reason)).c_str(), 1);
        }
    }
}

// --- boot ---

uint64_t parse_size(const char* text) {
    char* end;
    const uint64_t n = strtoull(text, &end, 0);
    return *end == 'G' ? n << 30 : *end == 'M' ? n << 20 : *end == 'K' ? n << 10 : n;
}

// Does everything up to the first KVM_RUN. vCPU 0 begins at the guest's entry; the others wait for
// INIT and SIPI.
void boot() {
    low_bytes = std::min(memory_bytes, kLowEnd);
    high_bytes = memory_bytes - low_bytes;
    low = anonymous(low_bytes);
    if (high_bytes != 0) high = anonymous(high_bytes);
    const int kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    part("vm");
    before_slots();
    // Slots come before KVM_CREATE_IRQCHIP: after it they cost 6.5 ms here. With the split irqchip
    // the order does not matter.
    set_slot(0, 0, low_bytes, low);
    if (high_bytes != 0) set_slot(1, kHigh, high_bytes, high);
    part("slots");
    if (full_irqchip) {
        check(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
    } else {
        kvm_enable_cap split{};
        split.cap = KVM_CAP_SPLIT_IRQCHIP;
        split.args[0] = 24;
        check(ioctl(vm, KVM_ENABLE_CAP, &split), "KVM_CAP_SPLIT_IRQCHIP");
    }
    const Entries entries = load_elf();
    write_boot_data();
    part("loaded");

    static Cpuid cpuid{256, 0, {}};
    check(ioctl(kvm, kGetSupportedCpuid, &cpuid), "KVM_GET_SUPPORTED_CPUID");
    const int run_bytes = check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
    vcpus.resize(static_cast<size_t>(cpus));
    for (int i = 0; i < cpus; ++i) {
        Vcpu& v = vcpus[static_cast<size_t>(i)];
        v.id = i;
        v.fd = check(ioctl(vm, KVM_CREATE_VCPU, i), "KVM_CREATE_VCPU");
        void* run = mmap(nullptr, static_cast<size_t>(run_bytes), PROT_READ | PROT_WRITE, MAP_SHARED, v.fd, 0);
        if (run == MAP_FAILED) die("mmap of kvm_run");
        v.run = static_cast<kvm_run*>(run);
        set_cpuid(v, &cpuid);
    }
    set_registers(vcpus[0], entries);  // the others wait for INIT and SIPI
    part("vcpus");
}

}  // namespace
