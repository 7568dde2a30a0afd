// SPDX-License-Identifier: Apache-2.0
// Results as JSON text: one line, no line end. The same text goes over HTTP and to `--json`. Shapes: openapi.json.
#pragma once

#include <string>
#include <string_view>

#include "vmm/api/service.h"
#include "vmm/base/error.h"

namespace snapvm::api {

[[nodiscard]] std::string instance_json(const Service& service);
[[nodiscard]] std::string version_json();
[[nodiscard]] std::string machine_config_json(const MachineConfig& config);
[[nodiscard]] std::string vm_config_json(const MachineConfig& config);
[[nodiscard]] std::string snapshot_status_json(const SnapshotStatus& status);
[[nodiscard]] std::string stats_json(const ServiceStats& stats);
[[nodiscard]] std::string balloon_json(const BalloonStatus& balloon);
[[nodiscard]] std::string balloon_statistics_json(const BalloonReport& report);
[[nodiscard]] std::string outcome_json(const Outcome& outcome);
[[nodiscard]] std::string wait_json(const WaitResult& result);
[[nodiscard]] std::string fault_json(std::string_view message);

}  // namespace snapvm::api
