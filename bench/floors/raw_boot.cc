// SPDX-License-Identifier: Apache-2.0
// The floor of every boot: the fewest plain system calls that take an ELF to READY on KVM, with no
// code of the project. It uses the same kind of memory as the product (anonymous, huge pages
// advised) and the same irqchip (split) (raw_machine.h). It is also the test-bed of the ledger
// guest.
//
//   raw_boot ELF [--mem 256M] [--cpus 1] [--cmdline S] [--linux64] [--full-irqchip] [--small-pages]
//            [--times] [--until-ready] [--stdin] [--flip ADDRESS]
// `cpus=N` is appended to the guest's command line, because there are no ACPI tables. --times
// prints one line of parts on stderr, in microseconds since the process was started. The start is
// RAW_BOOT_T0 in the environment (CLOCK_MONOTONIC in ns, taken just before the start, as
// bench/boot.cc does), else the beginning of main(). --stdin feeds the guest's serial port. --flip
// flips a bit in guest memory at the first MARK (command `m`). The exit code is the guest's, or 4
// after a triple fault.
#include <map>

#include "bench/floors/raw_machine.h"

namespace {

bool show_times = false, until_ready = false, feed_stdin = false;
uint64_t flip_address = ~0ULL, start_ns = 0;

void before_slots() {}
void before_run(int) {}

void ready() {
    part("ready");
    if (show_times) {
        for (const auto& [name, ns] : parts) fprintf(stderr, "%s=%lu ", name, (ns - start_ns) / 1000);
        fputs("\n", stderr);
    }
    if (until_ready) _exit(0);
}

void mark(uint32_t value) {
    if (flip_address != ~0ULL) *guest(flip_address, 1) ^= 0x10;
    flip_address = ~0ULL;
    fprintf(stderr, "raw_boot: MARK %u\n", value);
}

void* read_stdin(void*) {
    uint8_t byte;
    while (read(STDIN_FILENO, &byte, 1) == 1) {
        const std::lock_guard lock(device_lock);
        input.push_back(byte);
        if (input.size() == 1) raise_serial();
    }
    return nullptr;
}

void parse(int argc, char** argv) {
    const std::map<std::string, bool*> flags{{"--linux64", &linux64},         {"--full-irqchip", &full_irqchip},
                                             {"--small-pages", &small_pages}, {"--times", &show_times},
                                             {"--until-ready", &until_ready}, {"--stdin", &feed_stdin}};
    const char *mem = "256M", *count = "1", *text = "", *flip = nullptr, *elf = "";
    const std::map<std::string, const char**> values{
        {"--mem", &mem}, {"--cpus", &count}, {"--cmdline", &text}, {"--flip", &flip}};
    for (int i = 1; i < argc; ++i)
        if (const auto flag = flags.find(argv[i]); flag != flags.end())
            *flag->second = true;
        else if (const auto value = values.find(argv[i]); value != values.end() && i + 1 < argc)
            *value->second = argv[++i];
        else
            elf = argv[i][0] == '-' || *elf != 0 ? "" : argv[i];
    elf_path = elf;
    memory_bytes = parse_size(mem);
    cpus = atoi(count);
    command_line = text;
    if (flip != nullptr) flip_address = strtoull(flip, nullptr, 0);
    if (elf_path.empty() || cpus < 1 || cpus > 8 || memory_bytes < kHuge) end("usage: see the head of raw_boot.cc", 2);
    command_line += " cpus=" + std::to_string(cpus);
}

}  // namespace

int main(int argc, char** argv) {
    const char* t0 = getenv("RAW_BOOT_T0");
    start_ns = t0 != nullptr ? strtoull(t0, nullptr, 10) : now_ns();
    part("main");
    parse(argc, argv);
    boot();
    pthread_t thread;
    if (feed_stdin && pthread_create(&thread, nullptr, read_stdin, nullptr) != 0) die("pthread_create");
    for (size_t i = 1; i < vcpus.size(); ++i)
        if (pthread_create(&thread, nullptr, run_vcpu, &vcpus[i]) != 0) die("pthread_create");
    part("run");
    run_vcpu(&vcpus[0]);
}
