// SPDX-License-Identifier: Apache-2.0
// snapvm balloon: sets how much memory the balloon takes from a guest, and prints its state.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "vmm/base/printable.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/control.h"

namespace snapvm::cli {
namespace {

using Json = nlohmann::ordered_json;

Result<int> balloon(const Globals& globals, const std::string& name, const std::string& size) {
    constexpr std::uint64_t kMiB = 1 << 20;
    std::uint64_t bytes = 0;
    if (!size.empty()) {
        bytes = TRY(parse_memory_size(size));
        if (bytes % kMiB != 0) {
            return fail(ErrorKind::usage, "--size " + size + " is not a whole number of MiB", "give a multiple of 1M");
        }
    }
    api::ApiClient client = TRY(connect_machine(globals, name));
    if (!size.empty()) {
        TRY(ask(client, "PATCH", "/balloon", json_text(Json{{"amount_mib", bytes / kMiB}}), kQuickAnswer));
    }
    const std::string body = TRY(ask(client, "GET", "/balloon/statistics", {}, kQuickAnswer));
    if (globals.json) {
        print_line(body);
        return 0;
    }
    const Json fields = Json::parse(body, nullptr, /*allow_exceptions=*/false);
    for (const auto& [key, value] : fields.items()) {
        print(stdout, "%-28s %s\n", key.c_str(), json_text(value).c_str());
    }
    return 0;
}

}  // namespace

void add_balloon(Command program, Globals& globals) {
    Command command =
        program.subcommand("balloon", "take memory from a guest, or give some back, and print the balloon's size");
    auto name = std::make_shared<std::string>();
    auto size = std::make_shared<std::string>();
    command.example("snapvm balloon vm --size 64M");
    command.required("NAME", *name, "the machine");
    command.option("--size SIZE", *size, "memory that the guest is to do without, in whole MiB (default: as it is)");
    command.action([=, &globals] { return balloon(globals, *name, *size); });
}

}  // namespace snapvm::cli
