// SPDX-License-Identifier: Apache-2.0
// `snapvm doctor`: prints what this host offers and costs, with advice.
#include <string>

#include "vmm/base/fd.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"
#include "vmm/cli/commands.h"
#include "vmm/doctor/probe.h"
#include "vmm/doctor/report.h"

namespace snapvm::cli {
namespace {

Result<int> examine(bool json) {
    const doctor::HostFacts facts = TRY(doctor::probe_host());
    const std::string text =
        printable_lines(json ? doctor::facts_json(facts, /*advice=*/true) + "\n" : doctor::facts_table(facts));
    TRY(write_all(1, std::as_bytes(std::span(text)), "standard output"));
    return 0;
}

}  // namespace

void add_doctor(Command program, Globals& globals) {
    Command command =
        program.subcommand("doctor", "show what this host offers and what it costs, with advice for what is missing");
    command.example("snapvm doctor --json");
    command.action([&globals] { return examine(globals.json); });
}

}  // namespace snapvm::cli
