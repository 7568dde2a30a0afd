// SPDX-License-Identifier: Apache-2.0
// The floor of a balloon: the same pages of the same guest (raw_machine.h) are given back by
// madvise of the same ranges, without a driver that asks for it.
//
//   raw_balloon ELF --mem SIZE --cmdline S
// The guest has memory for its load (`load=` on its command line,
// guest-images/ledger/load_format.h). Each line on stdin is the size of a range. The guest writes
// into each page and halts; then all of the memory is given back, range after range. The answer is
// a line of `ns=` and `cpu=` of that.
#include <atomic>

#include "bench/floors/raw_machine.h"
#include "guest-images/ledger/load_format.h"

namespace {

namespace ledger = snapvm::ledger;

std::atomic<bool> is_ready{false};

void before_slots() {}
void ready() {
    is_ready = true;
    is_ready.notify_all();
}
void mark(uint32_t) {}
void before_run(int) {}

ledger::Load& load() { return *reinterpret_cast<ledger::Load*>(guest(ledger::kLoadAddress, sizeof(ledger::Load))); }

void dirty_all(uint64_t number) {
    load().order = {ledger::LoadKind::dirty, 0, 4096, load().region_bytes / 4096, 1, 1, number};
    __atomic_store_n(&load().number, number, __ATOMIC_RELEASE);
    {
        const std::lock_guard lock(device_lock);
        input.push_back('l');
        raise_serial();
    }
    while (__atomic_load_n(&load().finished, __ATOMIC_ACQUIRE) != number) usleep(1000);
    if (load().fault != ledger::LoadFault::none) end("the guest could not carry out its order", 1);
    usleep(1000);  // the guest goes to sleep meanwhile
}

void give_back(uint64_t range) {
    for (uint64_t at = 0; at < load().region_bytes; at += range) {
        const uint64_t size = std::min(range, load().region_bytes - at);
        check(madvise(guest(load().region + at, size), size, MADV_DONTNEED), "madvise");
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 6 || strcmp(argv[2], "--mem") != 0 || strcmp(argv[4], "--cmdline") != 0)
        end("usage: see the head of raw_balloon.cc", 2);
    elf_path = argv[1];
    memory_bytes = parse_size(argv[3]);
    command_line = std::string(argv[5]) + " quiet=1 cpus=1";
    boot();
    pthread_t thread;
    if (pthread_create(&thread, nullptr, run_vcpu, &vcpus[0]) != 0) die("pthread_create");
    is_ready.wait(false);
    while (__atomic_load_n(&load().magic, __ATOMIC_ACQUIRE) != ledger::kLoadMagic) usleep(1000);
    puts("ready");
    fflush(stdout);
    uint64_t number = 0;
    for (char line[32]; fgets(line, sizeof line, stdin) != nullptr;) {
        const uint64_t range = parse_size(line);
        if (range == 0 || range % 4096 != 0) end("a line of stdin is malformed", 2);
        dirty_all(++number);
        const uint64_t cpu = cpu_ns(RUSAGE_THREAD), start = now_ns();
        give_back(range);
        const uint64_t done = now_ns();
        printf("ns=%lu cpu=%lu\n", done - start, cpu_ns(RUSAGE_THREAD) - cpu);
        fflush(stdout);
    }
    _exit(0);
}
