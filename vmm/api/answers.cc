// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/answers.h"

#include <array>
#include <nlohmann/json.hpp>

#include "snapshot/report/inspect.h"
#include "vmm/base/printable.h"

namespace snapvm::api {
namespace {

// Keeps the order in which fields are written, for human readers.
using json = nlohmann::ordered_json;

std::string text_of(const json& value) { return json_text(value); }

std::string_view huge_pages_word(PagePolicy pages) { return pages == PagePolicy::small_pages ? "None" : "Transparent"; }

std::string_view boot_word(BootProtocol boot) {
    switch (boot) {
        case BootProtocol::automatic: return "auto";
        case BootProtocol::pvh: return "pvh";
        case BootProtocol::linux64: return "linux64";
    }
    return "auto";
}

json machine_config(const MachineConfig& config) {
    return {{"vcpu_count", config.cpus},
            {"mem_size_mib", config.memory_bytes >> 20},
            {"smt", false},
            {"track_dirty_pages", false},
            {"huge_pages", huge_pages_word(config.pages)}};
}

// In the form that Firecracker uses. The kernel's command line names the root file system, so no
// disk is marked as its device.
json drives(const MachineConfig& config, std::span<const std::uint64_t> bytes) {
    json list = json::array();
    for (const DiskConfig& disk : config.devices.disks) {
        list.push_back({{"drive_id", disk.id},
                        {"path_on_host", disk.path},
                        {"is_root_device", false},
                        {"is_read_only", disk.read_only},
                        {"format", name_of(disk.format)},
                        {"werror", name_of(disk.write_errors)},
                        {"ephemeral", name_of(disk.ephemeral)},
                        {"size_bytes", list.size() < bytes.size() ? bytes[list.size()] : 0}});
    }
    return list;
}

// In the form that Firecracker uses.
json network_interfaces(const MachineConfig& config) {
    json list = json::array();
    for (const NetConfig& net : config.devices.nets) {
        list.push_back({{"iface_id", net.id}, {"host_dev_name", net.tap}, {"guest_mac", mac_text(net.mac)}});
    }
    return list;
}

json counter_fields(const std::vector<Counters::Value>& counters) {
    json fields = json::object();
    for (const Counters::Value& counter : counters) {
        fields[std::string(counter.name)] = counter.value;
    }
    return fields;
}

json counters_of_parts(const std::vector<PartCounters>& parts) {
    json fields = json::object();
    for (const PartCounters& part : parts) {
        fields[part.part] = counter_fields(part.values);
    }
    return fields;
}

json network_stats(const std::vector<NetworkStats>& networks) {
    json list = json::array();
    for (const NetworkStats& network : networks) {
        list.push_back({{"id", network.id}, {"link_up", network.link_up}});
        list.back().update(counter_fields(network.counters));
    }
    return list;
}

json outcome_fields(const Outcome& outcome) {
    json fields = {{"outcome", outcome.name()}, {"exit_code", outcome.exit_code()}};
    if (outcome.error) {
        fields["error"] = outcome.error->message();
    }
    return fields;
}

}  // namespace

std::string_view snapvm_version() { return SNAPVM_VERSION; }

std::string instance_json(const Service& service) {
    json fields = {{"id", service.id()},
                   {"state", name_of(service.state())},
                   {"app_name", "snapvm"},
                   {"vmm_version", snapvm_version()}};
    if (const std::string reason = service.pause_reason(); !reason.empty()) {
        fields["pause_reason"] = reason;
    }
    return text_of(fields);
}

std::string version_json() { return text_of({{"firecracker_version", snapvm_version()}}); }

std::string drive_size_json(const std::string& id, std::uint64_t bytes) {
    return text_of({{"drive_id", id}, {"size_bytes", bytes}});
}

std::string machine_config_json(const MachineConfig& config) { return text_of(machine_config(config)); }

std::string vm_config_json(const MachineConfig& config, std::span<const std::uint64_t> disk_bytes) {
    json boot = {{"kernel_image_path", config.kernel},
                 {"boot_args", config.cmdline},
                 {"initrd_path", config.initrds.empty() ? json(nullptr) : json(config.initrds.front())},
                 {"initrd_paths", config.initrds},
                 {"boot_protocol", boot_word(config.boot)}};
    json whole = {{"machine-config", machine_config(config)},
                  {"boot-source", std::move(boot)},
                  {"drives", drives(config, disk_bytes)},
                  {"network-interfaces", network_interfaces(config)},
                  {"machine_id", config.machine_id.text()}};
    const DeviceConfig& devices = config.devices;
    if (devices.vsock) {
        whole["vsock"] = {{"guest_cid", devices.vsock->cid}, {"uds_path", devices.vsock->socket}};
    }
    if (devices.balloon) {
        whole["balloon"] = {{"amount_mib", devices.balloon->bytes >> 20}};
    }
    if (devices.rng) {
        whole["entropy"] = json::object();
    }
    if (devices.console) {
        whole["console"] = json::object();
    }
    return text_of(whole);
}

std::string layer_json(const LayerTaken& layer) {
    return text_of({{"drive_id", layer.disk},
                    {"tag", layer.tag},
                    {"layer_path", layer.frozen},
                    {"overlay_path", layer.active},
                    {"held_us", layer.held_us}});
}

std::string snapshot_status_json(const SnapshotStatus& status) {
    json fields = {{"phase", status.phase ? name_of(*status.phase) : "none"},
                   {"round", status.round},
                   {"round_pages", status.round_pages},
                   {"round_done", status.round_done},
                   {"written_bytes", status.written_bytes},
                   {"staged_bytes", status.staged_bytes},
                   {"elapsed_us", status.elapsed_us}};
    if (status.report) {
        fields["result"] = json::parse(to_json(*status.report));
    }
    if (status.error) {
        fields["fault_message"] = status.error->message();
    }
    return text_of(fields);
}

std::string stats_json(const ServiceStats& stats) {
    json fields = {{"id", stats.id},
                   {"state", name_of(stats.state)},
                   {"pid", stats.pid},
                   {"uptime_us", stats.uptime_us},
                   {"memory_bytes", stats.memory_bytes},
                   {"cpus", stats.cpus},
                   {"exits", stats.exits},
                   {"ready", stats.ready},
                   {"ready_value", stats.ready_value},
                   {"mark", stats.mark},
                   {"marks", stats.marks},
                   {"crash_loaded", stats.crash_loaded},
                   {"serial_bytes", stats.serial_bytes},
                   {"network_interfaces", network_stats(stats.networks)},
                   {"counters", counters_of_parts(stats.counters)}};
    if (!stats.pause_reason.empty()) {
        fields["pause_reason"] = stats.pause_reason;
    }
    if (stats.snapshot) {
        fields["snapshot"] = json::parse(to_json(*stats.snapshot));
    }
    if (stats.outcome) {
        fields.update(outcome_fields(*stats.outcome));
    }
    return text_of(fields);
}

std::string balloon_json(const BalloonStatus& balloon) {
    return text_of({{"amount_mib", balloon.target_bytes >> 20},
                    {"deflate_on_oom", true},
                    {"stats_polling_interval_s", balloon.polling_seconds},
                    {"free_page_hinting", true},
                    {"free_page_reporting", true}});
}

std::string balloon_statistics_json(const BalloonReport& report) {
    json fields = {{"target_pages", report.balloon.target_bytes / kPageSize},
                   {"actual_pages", report.balloon.actual_bytes / kPageSize},
                   {"target_mib", report.balloon.target_bytes >> 20},
                   {"actual_mib", report.balloon.actual_bytes >> 20}};
    constexpr std::array<std::string_view, virtio::BalloonStatistics::tag_count> kNames = {
        "swap_in",          "swap_out",    "major_faults",        "minor_faults",     "free_memory", "total_memory",
        "available_memory", "disk_caches", "hugetlb_allocations", "hugetlb_failures", "oom_kill",    "alloc_stall",
        "async_scan",       "direct_scan", "async_reclaim",       "direct_reclaim"};
    for (std::size_t tag = 0; tag < kNames.size(); ++tag) {
        if (report.statistics.values[tag]) {
            fields[std::string(kNames[tag])] = *report.statistics.values[tag];
        }
    }
    return text_of(fields);
}

std::string outcome_json(const Outcome& outcome) { return text_of(outcome_fields(outcome)); }

std::string wait_json(const WaitResult& result) {
    json fields = {{"for", name_of(result.what)}};
    switch (result.what) {
        case WaitFor::ready: fields["ready_value"] = result.ready_value; break;
        case WaitFor::serial: fields["line"] = result.line; break;
        case WaitFor::exit: fields.update(outcome_fields(result.outcome)); break;
    }
    return text_of(fields);
}

std::string fault_json(std::string_view message) { return text_of({{"fault_message", message}}); }

}  // namespace snapvm::api
