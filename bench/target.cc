// SPDX-License-Identifier: Apache-2.0
// The targets of the snapshots of running guests, and the body of their requests.
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "bench/live_worker.h"
#include "bench/scenario.h"
#include "snapshot/area/area.h"
#include "snapshot/report/inspect.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/config/machine_config.h"

namespace snapvm::bench {

bool is_device(const std::string& target) {
    const auto area = AreaPath::parse(target);
    struct stat info{};
    return area && ::stat(area->path.c_str(), &info) == 0 && S_ISBLK(info.st_mode);
}

void remove_target(const std::string& target) {
    if (const auto area = AreaPath::parse(target); area && !is_device(target)) {
        ::unlink(area->path.c_str());
    }
}

Status prepare_target(const Options& options, const LiveGuest& guest) {
    const AreaPath area = TRY(AreaPath::parse(options.area));
    if (!is_device(options.area)) {
        remove_target(options.area);
        return {};
    }
    MachineConfig config;
    config.memory_bytes = TRY(parse_size(guest.memory));
    std::from_chars(guest.cpus.data(), guest.cpus.data() + guest.cpus.size(), config.cpus);
    // An existing area may be created anew. Anything else on the device is refused.
    const bool is_area = inspect_area(area).has_value();
    TRY(create_area(area, {.blocks = config.blocks(), .cpus = config.cpus}, {.slots = 1, .force = is_area}));
    return {};
}

Result<nlohmann::json> snapshot_body(const Options& options, const std::string& mode, const std::string& staging) {
    const AreaPath area = TRY(AreaPath::parse(options.area));
    nlohmann::json body = {
        {"snapshot_path", area.path + "@" + std::to_string(area.offset)}, {"mode", mode}, {"cache", options.cache}};
    if (!options.when_diverging.empty()) {
        body["when_diverging"] = options.when_diverging;
    }
    if (!options.max_pause.empty()) {
        body["max_pause_us"] = TRY(parse_duration(options.max_pause)).count();
    }
    if (!staging.empty()) {
        body["staging_bytes"] = TRY(parse_size(staging));
    }
    return body;
}

}  // namespace snapvm::bench
