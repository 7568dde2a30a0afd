// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/machine_query.h"

#include <nlohmann/json.hpp>

#include "vmm/base/try.h"
#include "vmm/cli/control.h"

namespace snapvm::cli {

Result<MachineConfig> query_config(const Globals& globals, const std::string& name) {
    api::ApiClient client = TRY(connect_machine(globals, name));
    const std::string body = TRY(ask(client, "GET", "/machine-config", "", kQuickAnswer));
    const auto json = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) {
        return fail(ErrorKind::invalid, "machine " + name + " did not give its configuration: " + body);
    }
    MachineConfig config;
    config.memory_bytes = json.value("mem_size_mib", std::uint64_t{0}) << 20;
    config.cpus = json.value("vcpu_count", std::uint32_t{0});
    TRY(config.validate());
    return config;
}

}  // namespace snapvm::cli
