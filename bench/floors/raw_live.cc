// SPDX-License-Identifier: Apache-2.0
// The floor of every live snapshot's pause, with the same guest by plain system calls
// (raw_machine.h). Its memory is copied into memory of this program in rounds by KVM's dirty log,
// until little is left. Then the vCPUs stop, the rest is copied, and they go on. The floor leaves
// out what makes that a snapshot: vCPU and device states, classes, checksums, staging, the disk.
//
//   raw_live ELF [--mem 1G] [--cpus 1] [--cmdline S] [--rate BYTES] [--window MS]
// The guest stirs (`stir=` on its command line). Each line on stdin is one snapshot. The answer is
// a line of numbers: times in ns, and the pages a second that the guest wrote before, during and
// after (before and after over --window, 100 ms). The vCPUs are stopped between two lines. --rate
// limits the first round to that many bytes a second, as a disk would.
#include <signal.h>

#include <atomic>
#include <map>

#include "bench/floors/raw_machine.h"
#include "guest-images/ledger/ledger_format.h"

namespace {

namespace ledger = snapvm::ledger;

constexpr uint64_t kPage = 4096, kChunkPages = 16384, kFewPages = 64;
constexpr int kMostRounds = 30;

uint64_t first_round_rate = 0, window_ns = 100'000'000;
std::atomic<bool> is_ready{false}, stopped{false};
std::atomic<int> standing{0};
std::atomic<uint64_t> went_on{0};  // when the last vCPU went on

void before_slots() {
    kvm_enable_cap manual{};
    manual.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
    manual.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    check(ioctl(vm, KVM_ENABLE_CAP, &manual), "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2");
}
void ready() {
    is_ready = true;
    is_ready.notify_all();
}
void mark(uint32_t) {}

// --- stopping ---

void before_run(int vcpu) {
    if (!stopped) return;
    ++standing;
    standing.notify_all();
    stopped.wait(true);
    vcpus[static_cast<size_t>(vcpu)].run->immediate_exit = 0;
    went_on = now_ns();
    --standing;
}
std::vector<pthread_t> threads;
void stop() {
    while (standing != 0) usleep(10);  // the last vCPU of the previous stop may still be leaving it
    stopped = true;
    for (size_t i = 0; i < vcpus.size(); ++i) {
        vcpus[i].run->immediate_exit = 1;
        pthread_kill(threads[i], SIGUSR1);
    }
    for (int now = standing; now != cpus; now = standing) standing.wait(now);
}
void resume_vcpus() {
    stopped = false;
    stopped.notify_all();
}

// --- memory, slot by slot ---

struct Slot {
    uint32_t number;
    uint64_t address, bytes;
    uint8_t *memory, *copy;
    std::vector<uint64_t> dirty;
    uint64_t pages() const { return bytes / kPage; }
};
std::vector<Slot> slots;

void log_writes(bool on) {
    for (const Slot& s : slots) set_slot(s.number, s.address, s.bytes, s.memory, on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
}
// Marks the pages whose bits are set clean, and protects them from now on.
void clear(const Slot& s, uint64_t first, uint64_t count, uint64_t* bits) {
    kvm_clear_dirty_log log{};
    log.slot = s.number;
    log.num_pages = static_cast<uint32_t>(count);
    log.first_page = first;
    log.dirty_bitmap = bits;
    check(ioctl(vm, KVM_CLEAR_DIRTY_LOG, &log), "KVM_CLEAR_DIRTY_LOG");
}
uint64_t get_log() {
    uint64_t pages = 0;
    for (Slot& s : slots) {
        kvm_dirty_log log{};
        log.slot = s.number;
        log.dirty_bitmap = s.dirty.data();
        check(ioctl(vm, KVM_GET_DIRTY_LOG, &log), "KVM_GET_DIRTY_LOG");
        for (const uint64_t word : s.dirty) pages += static_cast<uint64_t>(__builtin_popcountll(word));
    }
    return pages;
}
void copy_page(const Slot& s, uint64_t page) { memcpy(s.copy + page * kPage, s.memory + page * kPage, kPage); }
// Copies the pages of the log. While the guest runs each chunk is cleared first, so that a write
// during the copy sets its bit again.
void copy_dirty(bool running) {
    for (Slot& s : slots)
        for (uint64_t first = 0; first < s.pages(); first += kChunkPages) {
            const uint64_t end = std::min(first + kChunkPages, s.pages());
            uint64_t any = 0;
            for (uint64_t w = first / 64; w < (end + 63) / 64; ++w) any |= s.dirty[w];
            if (any == 0) continue;
            if (running) clear(s, first, end - first, &s.dirty[first / 64]);
            for (uint64_t w = first / 64; w < (end + 63) / 64; ++w)
                for (uint64_t bits = s.dirty[w]; bits != 0; bits &= bits - 1)
                    copy_page(s, w * 64 + static_cast<uint64_t>(__builtin_ctzll(bits)));
        }
}
// Copies every page that was ever touched. A page that is not resident was never touched, because
// nothing swaps here.
uint64_t copy_all() {
    uint64_t pages = 0;
    std::vector<uint64_t> ones(kChunkPages / 64, ~0ULL);
    std::vector<unsigned char> resident(kChunkPages);
    const uint64_t start = now_ns();
    for (Slot& s : slots)
        for (uint64_t first = 0; first < s.pages(); first += kChunkPages) {
            const uint64_t count = std::min(kChunkPages, s.pages() - first);
            clear(s, first, count, ones.data());
            check(mincore(s.memory + first * kPage, count * kPage, resident.data()), "mincore");
            for (uint64_t i = 0; i < count; ++i)
                if ((resident[i] & 1) != 0) copy_page(s, first + i), ++pages;
            if (first_round_rate == 0) continue;
            const uint64_t due = start + static_cast<uint64_t>(static_cast<double>(pages * kPage) /
                                                               static_cast<double>(first_round_rate) * 1e9);
            if (const uint64_t now = now_ns(); now < due) usleep(static_cast<useconds_t>((due - now) / 1000));
        }
    return pages;
}

// --- the guest's counts ---

const ledger::Root& root() { return *reinterpret_cast<const ledger::Root*>(guest(ledger::kRootAddress, kPage)); }
uint64_t stirred(uint32_t shard) {
    const auto* header = reinterpret_cast<ledger::ShardHeader*>(guest(ledger::header_address(root(), shard), kPage));
    return __atomic_load_n(&header->stirred, __ATOMIC_ACQUIRE);
}
uint64_t all_stirred() {
    uint64_t sum = 0;
    for (uint32_t s = 0; s < root().shards; ++s) sum += stirred(s);
    return sum;
}
struct Mark {
    uint64_t ns = now_ns(), pages = all_stirred();
    double rate_to(const Mark& later) const {
        return static_cast<double>(later.pages - pages) * 1e9 / static_cast<double>(later.ns - ns);
    }
};
void wait_swept() {
    for (uint32_t s = 0; s < root().shards; ++s)
        while (stirred(s) < ledger::stir_share(root(), s)) usleep(1000);
}

void one_snapshot() {
    resume_vcpus();
    wait_swept();
    const Mark earlier;
    usleep(static_cast<useconds_t>(window_ns / 1000));
    const Mark begin;
    log_writes(true);
    uint64_t copied = copy_all(), before = ~0ULL, left = get_log();
    const uint64_t first_done = now_ns();
    int rounds = 1;
    for (; left > kFewPages && left <= before / 2 && rounds < kMostRounds; ++rounds) {
        copy_dirty(true);
        copied += left;
        before = left;
        left = get_log();
    }
    const uint64_t asked = now_ns();
    stop();
    const uint64_t stood = now_ns();
    left = get_log();
    copy_dirty(false);
    const uint64_t copied_at = now_ns();
    resume_vcpus();
    while (standing != 0) usleep(100);
    const uint64_t done = went_on;
    log_writes(false);
    const Mark end;
    usleep(static_cast<useconds_t>(window_ns / 1000));
    const Mark later;
    stop();
    printf(
        "pause=%lu stop=%lu last=%lu total=%lu first=%lu rounds=%d left=%lu copied=%lu before=%.0f during=%.0f "
        "after=%.0f\n",
        done - asked, stood - asked, copied_at - stood, done - begin.ns, first_done - begin.ns, rounds + 1, left,
        (copied + left) * kPage, earlier.rate_to(begin), begin.rate_to(end), end.rate_to(later));
    fflush(stdout);
}

void parse(int argc, char** argv) {
    const char *mem = "1G", *count = "1", *text = "", *rate = "0", *window = "100", *elf = "";
    const std::map<std::string, const char**> values{
        {"--mem", &mem}, {"--cpus", &count}, {"--cmdline", &text}, {"--rate", &rate}, {"--window", &window}};
    for (int i = 1; i < argc; ++i)
        if (const auto value = values.find(argv[i]); value != values.end() && i + 1 < argc)
            *value->second = argv[++i];
        else
            elf = argv[i][0] == '-' || *elf != 0 ? "" : argv[i];
    elf_path = elf;
    memory_bytes = parse_size(mem);
    cpus = atoi(count);
    first_round_rate = parse_size(rate);
    window_ns = strtoull(window, nullptr, 10) * 1'000'000;
    command_line = std::string(text) + " quiet=1 cpus=" + count;
    if (elf_path.empty() || cpus < 1 || cpus > 8 || memory_bytes < kHuge) end("usage: see the head of raw_live.cc", 2);
}

}  // namespace

int main(int argc, char** argv) {
    parse(argc, argv);
    struct sigaction kick{};
    kick.sa_handler = [](int) {};
    check(sigaction(SIGUSR1, &kick, nullptr), "sigaction");
    boot();
    slots.push_back({0, 0, low_bytes, low, anonymous(low_bytes), std::vector<uint64_t>(low_bytes / kPage / 64)});
    if (high_bytes != 0)
        slots.push_back(
            {1, kHigh, high_bytes, high, anonymous(high_bytes), std::vector<uint64_t>(high_bytes / kPage / 64)});
    threads.resize(vcpus.size());
    for (size_t i = 0; i < vcpus.size(); ++i)
        if (pthread_create(&threads[i], nullptr, run_vcpu, &vcpus[i]) != 0) die("pthread_create");
    is_ready.wait(false);
    if (root().magic != ledger::kRootMagic || root().stir_pages == 0)
        end("this is not a ledger guest that stirs; give stir=SIZE", 1);
    wait_swept();
    stop();
    puts("ready");
    fflush(stdout);
    for (char line[16]; fgets(line, sizeof line, stdin) != nullptr;) one_snapshot();
    _exit(0);
}
