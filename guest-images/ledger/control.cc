// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/control.h"

#include "guest-images/ledger/apic.h"
#include "guest-images/ledger/ledger.h"

namespace snapvm::guest {
namespace {

// The control word is written by the first vCPU alone. It is a mode and a count that makes each
// word new. A vCPU acknowledges the exact word that it stopped for, so that an old acknowledgement
// never counts for a later stop.
enum Mode : u32 { run = 0, hold = 1, check = 2 };
volatile u32 control = run;
volatile bool steps_paused = false;

u32 next_word(Mode mode) { return ((control >> 2) + 1) << 2 | mode; }
Mode mode_of(u32 word) { return static_cast<Mode>(word & 3); }

void command_others(Mode mode) {
    control = next_word(mode);
    if (ledger_root.shards > 1) wake_others();
}

void wait_for_others() {
    for (u32 i = 1; i < ledger_root.shards; ++i) wait_for([i] { return per_cpu[i].acknowledged == control; });
}

}  // namespace

bool may_step(u32 shard) {
    const u32 word = control;
    if (mode_of(word) == run) return true;
    PerCpu& cpu = self();
    if (cpu.acknowledged != word) {
        if (mode_of(word) == check) cpu.finding = check_shard(shard);
        asm volatile("" : : : "memory");
        cpu.acknowledged = word;
        wake_first();
    }
    return false;
}

ledger::Finding verify_all() {
    command_others(hold);
    wait_for_others();
    ledger::Finding first = ledger::verify_root(ledger_root);
    // A damaged root does not say reliably where the rest is.
    if (!first) {
        command_others(check);
        first = check_shard(0);
        wait_for_others();
        for (u32 i = 1; i < ledger_root.shards && !first; ++i) first = per_cpu[i].finding;
    }
    command_others(run);
    return first;
}

void set_paused(bool value) {
    steps_paused = value;
    if (ledger_root.state == ledger::State::ready && ledger_root.shards > 1) wake_others();
}
bool paused() { return steps_paused; }

}  // namespace snapvm::guest
