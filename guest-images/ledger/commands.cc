// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/commands.h"

#include "guest-images/ledger/clock.h"
#include "guest-images/ledger/control.h"
#include "guest-images/ledger/device_service.h"
#include "guest-images/ledger/disk_ledger.h"
#include "guest-images/ledger/ledger.h"
#include "guest-images/ledger/load/load.h"
#include "guest-images/ledger/power.h"
#include "guest-images/ledger/serial.h"
#include "guest-images/ledger/virtio/rng.h"

namespace snapvm::guest {
namespace {

constexpr u64 kGenerationId = 0xE0010000;  // vmm/platform/PLATFORM.md
constexpr std::int64_t kWildlyAhead = 1000000000;

struct Generation {
    u64 low, high;
    bool operator==(const Generation&) const = default;
};
Generation generation;
constinit virtio::Rng rng;
bool rng_started = false;

Generation read_generation() {
    if (!has_test_port()) return {};  // on another platform the address may be anything
    const auto* id = reinterpret_cast<const volatile u64*>(kGenerationId);
    return {id[0], id[1]};
}

u64 all_ticks() {
    u64 ticks = 0;
    for (u32 i = 0; i < ledger_root.shards; ++i) ticks += per_cpu[i].ticks;
    return ticks;
}

// Returns a finding if a clock went backwards on some vCPU, or if kvmclock is more than a second
// ahead of the TSC. Both start over if the VM generation ID has changed. kvmclock behind the TSC is
// no finding: a pause looks like that.
ledger::Finding check_clocks(std::int64_t* skew) {
    const Generation now = read_generation();
    if (!(now == generation)) {
        generation = now;
        for (u32 i = 0; i < ledger_root.shards; ++i) per_cpu[i].tsc_backwards = 0;  // the TSC may be another host's
        rebase_clock();
    }
    *skew = clock_skew();
    ledger::Finding finding{ledger::Fault::clock, 0, ~0ULL, 0, static_cast<u64>(*skew)};
    if (*skew > kWildlyAhead) return finding;
    for (u32 i = 0; i < ledger_root.shards; ++i) {
        finding.shard = i;
        finding.found = per_cpu[i].clock_backwards + per_cpu[i].tsc_backwards;
        if (finding.found != 0) return finding;
    }
    return {};
}

void print_finding(const ledger::Finding& f) {
    Line line;
    line.text("LEDGER BAD ").text(ledger::name(f.fault)).text(" shard=").number(f.shard);
    if (f.page != ~0ULL && ledger::is_of_disk(f.fault))
        line.text(" block=").number(f.page);
    else if (f.page != ~0ULL)
        line.text(" page=").number(f.page).text(" at=").hex(page_address(ledger_root, f.page));
    line.text(" expected=").hex(f.expected).text(" found=").hex(f.found).print();
}

// The device is looked for at the first command.
void draw_and_print(u64 ring_features) {
    if (!rng_started && !rng.start(ring_features)) {
        Line().text("LEDGER RNG none").print();
        return;
    }
    rng_started = true;
    u8 bytes[virtio::Rng::kBytes] = {};
    const u32 count = rng.draw(bytes);
    u64 value;
    __builtin_memcpy(&value, bytes, sizeof value);
    Line line;
    line.text("LEDGER RNG bytes=").number(count).text(" value=").hex(value);
    line.text(" interrupts=")
        .number(rng.device().interrupts())
        .text(" notifications=")
        .number(rng.queue().notifications())
        .print();
}

void carry_out(int command, const Options& options) {
    switch (command) {
        case 'v': verify_and_print(); break;
        case 'q': verify_and_exit();
        case 's': Line().text("LEDGER STEPS ").number(total_steps()).print(); break;
        case 'p': set_paused(true); break;
        case 'c': set_paused(false); break;
        case 'm': test_mark(static_cast<u32>(total_steps())); break;
        case 'b': print_char('.'); break;
        case 'l': load::carry_out_order(); break;
        case 'n': draw_and_print(options.ring_features); break;
        case 't': triple_fault();
        case 'o': power_off();
        case 'e': debug_exit(0x10);
        case 'r': reboot();
        case 'u': *reinterpret_cast<volatile u64*>(ledger::kPageBytes << 40) = 0; break;  // a trap, to see its report
        default: break;
    }
}

}  // namespace

void start_checks() {
    generation = read_generation();
    rebase_clock();
}

void handle_commands(const Options& options) {
    for (int byte = read_serial(); byte >= 0; byte = read_serial()) carry_out(byte, options);
}

bool verify_and_print() {
    std::int64_t skew = 0;
    // The clocks come last: what they say depends on the host, and must not hide what a snapshot
    // has lost.
    ledger::Finding finding = verify_all();
    if (!finding) finding = check_disk();
    if (const ledger::Finding clocks = check_clocks(&skew); !finding) finding = clocks;
    check_devices();
    if (finding) {
        print_finding(finding);
        return false;
    }
    const u64 steps = total_steps();
    Line line;
    line.text("LEDGER OK steps=")
        .number(steps)
        .text(" pages=")
        .number(ledger_root.pages)
        .text(" ticks=")
        .number(all_ticks());
    line.text(" gen=").number(steps / ledger_root.pages).text(" skew_ms=").number_signed(skew / 1000000);
    if (const u64 records = disk_records(); records != 0) line.text(" records=").number(records);
    line.print();
    return true;
}

[[noreturn]] void verify_and_exit() { exit_guest(verify_and_print() ? 0 : 1); }

}  // namespace snapvm::guest
