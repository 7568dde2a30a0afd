// SPDX-License-Identifier: Apache-2.0
#include "vmm/host/start_report.h"

#include <nlohmann/json.hpp>

#include "vmm/base/printable.h"

namespace snapvm {

std::string StartReport::json() const {
    nlohmann::ordered_json json = {{"name", name},        {"pid", pid},           {"api_socket", api_socket},
                                   {"map_us", map_us},    {"state_us", state_us}, {"first_run_us", first_run_us},
                                   {"total_us", total_us}};
    if (shared) {
        json["shared_runs"] = shared->runs;
        json["shared_pages"] = shared->pages;
    }
    if (!tsc.empty()) {
        json["tsc"] = tsc;
    }
    return json_text(json);
}

StartReport StartReport::parse(std::string_view line) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    StartReport report;
    if (!json.is_object()) {
        return report;
    }
    report.name = json.value("name", "");
    report.pid = json.value("pid", 0);
    report.api_socket = json.value("api_socket", "");
    report.map_us = json.value("map_us", std::uint64_t{0});
    report.state_us = json.value("state_us", std::uint64_t{0});
    report.first_run_us = json.value("first_run_us", std::uint64_t{0});
    report.total_us = json.value("total_us", std::uint64_t{0});
    report.tsc = json.value("tsc", "");
    if (json.contains("shared_runs")) {
        report.shared =
            SharedMemory{json.value("shared_runs", std::uint64_t{0}), json.value("shared_pages", std::uint64_t{0})};
    }
    return report;
}

}  // namespace snapvm
