// SPDX-License-Identifier: Apache-2.0
// Results as JSON text: one line without a line end. HTTP answers and `--json` use the same text.
// openapi.json describes it.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "vmm/base/error.h"
#include "vmm/control/service.h"

namespace snapvm::api {

/// Returns the program's version, which `GET /version` shows.
[[nodiscard]] std::string_view snapvm_version();
[[nodiscard]] std::string instance_json(const Service& service);
[[nodiscard]] std::string version_json();
[[nodiscard]] std::string machine_config_json(const MachineConfig& config);
[[nodiscard]] std::string drive_size_json(const std::string& id, std::uint64_t bytes);
[[nodiscard]] std::string vm_config_json(const MachineConfig& config, std::span<const std::uint64_t> disk_bytes);
[[nodiscard]] std::string layer_json(const LayerTaken& layer);
[[nodiscard]] std::string snapshot_status_json(const SnapshotStatus& status);
[[nodiscard]] std::string stats_json(const ServiceStats& stats);
[[nodiscard]] std::string balloon_json(const BalloonStatus& balloon);
[[nodiscard]] std::string balloon_statistics_json(const BalloonReport& report);
[[nodiscard]] std::string outcome_json(const Outcome& outcome);
[[nodiscard]] std::string wait_json(const WaitResult& result);
[[nodiscard]] std::string fault_json(std::string_view message);

}  // namespace snapvm::api
