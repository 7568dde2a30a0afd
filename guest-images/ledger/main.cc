// SPDX-License-Identifier: Apache-2.0
// Start-up, and each vCPU's loop, all at CPL 3. Clock, ticks and serial input come after READY,
// which does not need them.
#include "guest-images/ledger/apic.h"
#include "guest-images/ledger/boot_info.h"
#include "guest-images/ledger/clock.h"
#include "guest-images/ledger/commands.h"
#include "guest-images/ledger/control.h"
#include "guest-images/ledger/device_service.h"
#include "guest-images/ledger/disk_ledger.h"
#include "guest-images/ledger/ledger.h"
#include "guest-images/ledger/load/load.h"
#include "guest-images/ledger/power.h"
#include "guest-images/ledger/serial.h"
#include "guest-images/ledger/smp.h"
#include "guest-images/ledger/traps.h"

namespace snapvm::guest {

extern "C" {
void main(u64 boot_address, u32 boot_kind, u32 test_magic);
void ap_main(u32 index);
}

namespace {

constexpr u32 kClockEvery = 64;  // steps between two readings

BootInfo boot;
Options options;

// Computes how many steps the rate allows by now. It counts in ticks, so that steps are not caught
// up for time that the machine did not run.
class Pace {
public:
    explicit Pace(const PerCpu& cpu) : cpu_(cpu) {}
    void restart(u64 steps) {
        first_tick_ = cpu_.ticks;
        first_step_ = steps;
    }
    bool allows(u64 steps) const {
        if (options.rate == 0 || options.hz == 0) return true;
        return steps < first_step_ + (cpu_.ticks - first_tick_) * options.rate / options.hz;
    }

private:
    const PerCpu& cpu_;
    u64 first_tick_ = 0;
    u64 first_step_ = 0;
};

// Decides whether a shard may stir. Writes that a tick's share of the rate did not use are not made
// up later. The first sweep runs at full speed.
class StirPace {
public:
    bool allows(u64 tick, u64 stirred, u64 share) {
        if (options.stir_rate == 0 || stirred < share) return true;
        if (tick != tick_) {
            tick_ = tick;
            end_ = stirred + options.stir_rate / options.hz;
        }
        return stirred < end_;
    }

private:
    u64 tick_ = 0;
    u64 end_ = 0;
};

void start_own_clock_and_ticks() {
    register_clock();
    if (options.hz != 0) start_ticks(options.hz);
}

bool all_finished() {
    for (u32 s = 0; s < ledger_root.shards; ++s)
        if (committed_steps(s) < options.steps) return false;
    return true;
}

// Does the first vCPU's duties besides its shard.
void serve(PerCpu& cpu, u64& last_tick) {
    if (cpu.serial_pending != 0) {
        cpu.serial_pending = 0;
        handle_commands(options);
    }
    if (load::started()) load::serve();
    serve_devices();
    if (const u64 tick = cpu.ticks; tick != last_tick) {
        last_tick = tick;
        if (options.beat) print_char('.');
        if (serial_input_needs_polling()) handle_commands(options);
    }
    serve_disk();
    if (options.steps != 0 && all_finished()) verify_and_exit();
}

[[noreturn]] void run_shard(u32 shard) {
    PerCpu& cpu = self();
    Pace pace(cpu);
    pace.restart(0);
    StirPace stir_pace;
    const u64 share = stir_share(ledger_root, shard);
    u64 served_tick = cpu.ticks, read_tick = 0;
    bool was_paused = false;
    for (;;) {
        const u64 events = cpu.events;
        if (shard == 0) serve(cpu, served_tick);
        const u64 steps = committed_steps(shard);
        const bool is_paused = paused();
        if (was_paused && !is_paused) pace.restart(steps);
        was_paused = is_paused;
        if (cpu.ticks != read_tick || steps % kClockEvery == 0) {
            read_tick = cpu.ticks;
            ledger::ShardHeader& header = shard_header(shard);
            header.kvmclock_ns = read_clock();
            header.ticks = read_tick;
        }
        const bool held = shard != 0 && !may_step(shard);
        const bool done = options.steps != 0 && steps >= options.steps;
        const bool works = !held && !is_paused && !done;
        const bool steps_now = works && pace.allows(steps) && (shard != 0 || disk_has_room());
        if (steps_now) step(shard, options);
        if (steps_now && shard == 0) record_step();
        if (works && options.stir != 0 && stir_pace.allows(cpu.ticks, shard_header(shard).stirred, share))
            stir(shard);
        else if (!steps_now)
            halt(events);
    }
}

CpuList choose_cpus() {
    CpuList cpus;
    if (options.cpus == 0) cpus = find_cpus(boot.rsdp);
    if (cpus.count != 0) return cpus;
    cpus.count = options.cpus == 0 ? 1 : options.cpus;
    for (u32 i = 0; i < cpus.count; ++i) cpus.apic_ids[i] = static_cast<u8>(i);
    return cpus;
}

}  // namespace

void main(u64 boot_address, u32 boot_kind, u32 test_magic) {
    prepare_first_cpu(0);
    fill_interrupt_table();
    set_test_port(test_magic);
    read_boot_info(boot, boot_kind, boot_address);
    options = parse_options(boot.command_line);
    const CpuList cpus = choose_cpus();
    per_cpu[0].apic_id = cpus.apic_ids[0];
    lay_out_ledger(boot, options, cpus.count);
    set_paused(options.paused);
    start_other_cpus(cpus);
    initialise_shard(0);
    for (u32 i = 1; i < cpus.count; ++i) wait_for([i] { return per_cpu[i].initialised != 0; });
    seal_root();
    if (cpus.count > 1) wake_others();
    test_ready();
    if (!options.quiet || !has_test_port()) Line().text("LEDGER READY").print();

    enable_lapic();
    start_own_clock_and_ticks();
    start_checks();
    start_disk(options);
    enable_serial_input();
    start_devices(options);
    if (options.load != 0) load::start(options);
    run_shard(0);
}

void ap_main(u32 index) {
    initialise_shard(index);
    enable_lapic();
    publish(const_cast<u32&>(per_cpu[index].initialised), 1U);
    wake_first();
    for (;;) {
        const u64 events = self().events;
        if (observe(ledger_root.state) == ledger::State::ready) break;
        halt(events);
    }
    start_own_clock_and_ticks();
    run_shard(index);
}

}  // namespace snapvm::guest
