// SPDX-License-Identifier: Apache-2.0
// All JSON of the snapshot layer is made here.
#include <nlohmann/json.hpp>

#include "snapshot/report/inspect.h"
#include "snapshot/restore/detach.h"
#include "vmm/base/printable.h"

namespace snapvm {
namespace {

using Json = nlohmann::ordered_json;

std::string line(const Json& json) { return json_text(json); }

Json classes_json(const std::array<std::uint64_t, kPageClassCount>& pages) {
    Json out = Json::object();
    for (std::size_t i = 0; i < kPageClassCount; ++i) {
        out[std::string(name_of(static_cast<PageClass>(i)))] = pages[i];
    }
    return out;
}

Json section_json(const Section& section) {
    Json out = {{"kind", name_of(section.kind)}};
    if (section.block != 0) {
        out["block"] = section.block;
    }
    out["offset"] = section.offset;
    out["capacity"] = section.capacity;
    out["length"] = section.length;
    out["crc32c"] = section.crc;
    return out;
}

Json superblock_json(const SuperblockInfo& info) {
    if (!info.valid) {
        return {{"valid", false}, {"problem", info.problem}};
    }
    const Superblock& sb = *info.valid;
    Json sections = Json::array();
    for (const Section& section : sb.sections) {
        sections.push_back(section_json(section));
    }
    return {{"valid", true},
            {"format_version", std::to_string(kFormatMajor) + "." + std::to_string(kFormatMinor)},
            {"state", sb.state == SlotState::complete ? "complete" : "writing"},
            {"sequence", sb.sequence},
            {"machine_id", sb.machine_id.text()},
            {"snapshot_id", sb.snapshot_id.text()},
            {"area_bytes", sb.area_size},
            {"slots", sb.slots},
            {"slot", sb.slot},
            {"slot_offset", sb.slot_offset},
            {"slot_bytes", sb.slot_size},
            {"cpus", sb.cpus},
            {"memory_bytes", sb.memory_bytes},
            {"created_us", sb.created_us},
            {"sections", std::move(sections)}};
}

Json config_json(const MachineConfig& config) {
    return {
        {"memory_bytes", config.memory_bytes}, {"cpus", config.cpus},       {"kernel", config.kernel},
        {"initrds", config.initrds},           {"cmdline", config.cmdline}, {"machine_id", config.machine_id.text()}};
}

// Every device, in the order of their places on the bus.
Json devices_json(const DeviceConfig& devices, std::span<const std::uint64_t> disk_bytes) {
    Json list = Json::array();
    for (std::size_t i = 0; i < devices.disks.size(); ++i) {
        const DiskConfig& disk = devices.disks[i];
        list.push_back({{"kind", "disk"},
                        {"id", disk.id},
                        {"bytes", disk_bytes[i]},
                        {"path", disk.path},
                        {"format", name_of(disk.format)},
                        {"werror", name_of(disk.write_errors)},
                        {"read_only", disk.read_only}});
    }
    for (const NetConfig& net : devices.nets) {
        list.push_back({{"kind", "net"}, {"id", net.id}, {"tap", net.tap}, {"mac", mac_text(net.mac)}});
    }
    if (devices.vsock) {
        list.push_back({{"kind", "vsock"}, {"cid", devices.vsock->cid}, {"socket", devices.vsock->socket}});
    }
    if (devices.balloon) {
        list.push_back({{"kind", "balloon"}, {"bytes", devices.balloon->bytes}});
    }
    for (const auto& [has, kind] : {std::pair(devices.rng, "rng"), std::pair(devices.console, "console")}) {
        if (has) {
            list.push_back({{"kind", kind}});
        }
    }
    return list;
}

}  // namespace

std::string to_json(const AreaInfo& info) {
    Json out = {{"area", info.area}, {"device", info.device}, {"room_bytes", info.room}};
    out["restorable"] = info.problem.empty();
    if (!info.problem.empty()) {
        out["problem"] = info.problem;
    }
    if (!info.lost.empty()) {
        out["lost"] = info.lost;
    }
    if (info.chosen) {
        out["chosen_superblock"] = *info.chosen;
    }
    for (const SuperblockInfo& superblock : info.superblocks) {
        out["superblocks"].push_back(superblock_json(superblock));
    }
    if (!info.config) {
        return line(out);
    }
    out["created_us"] = info.created_us;
    out["config"] = config_json(*info.config);
    out["devices"] = devices_json(info.config->devices, info.disk_bytes);
    out["blocks"] = Json::array();
    for (const BlockInfo& block : info.blocks) {
        out["blocks"].push_back({{"id", static_cast<std::uint32_t>(block.spec.id)},
                                 {"name", name_of(block.spec.id)},
                                 {"base", block.spec.base.value},
                                 {"bytes", block.spec.size},
                                 {"pages", classes_json(block.pages)},
                                 {"bad_entries", block.bad_entries}});
    }
    out["plan"] = Json::array();
    for (const PlanRun& run : info.plan) {
        out["plan"].push_back(
            {{"block", static_cast<std::uint32_t>(run.block)}, {"first", run.first}, {"count", run.count}});
    }
    out["records"] = Json::array();
    for (const RecordInfo& record : info.records) {
        out["records"].push_back({{"kind", static_cast<std::uint32_t>(record.kind)},
                                  {"name", name_of(record.kind)},
                                  {"version", record.version},
                                  {"instance", record.instance},
                                  {"length", record.length},
                                  {"crc32c", record.crc}});
    }
    if (info.metadata_problem.empty()) {
        out["metadata"] = info.metadata;
    } else {
        out["metadata_problem"] = info.metadata_problem;
    }
    return line(out);
}

std::string to_json(const SnapshotReport& report) {
    Json rounds = Json::array();
    for (const SnapshotRound& round : report.rounds) {
        rounds.push_back(
            {{"dirty_pages", round.dirty_pages}, {"written_bytes", round.written_bytes}, {"us", round.us}});
    }
    Json out = {{"pause_us", report.pause_us},
                {"quiesce_us", report.quiesce_us},
                {"released_bytes", report.released_bytes},
                {"release_us", report.release_us},
                {"total_us", report.total_us},
                {"rounds", std::move(rounds)},
                {"pages", classes_json(report.pages)},
                {"area_bytes", report.area_bytes},
                {"written_bytes", report.written_bytes},
                {"staging_peak_bytes", report.staging_peak_bytes},
                {"tracker", report.tracker},
                {"type", report.type},
                {"diverged", report.diverged},
                {"when_diverging", report.when_diverging},
                {"snapshot_id", report.snapshot_id.text()},
                {"sequence", report.sequence},
                {"slot", report.slot},
                {"cached", report.cached},
                {"backend", report.backend}};
    if (!report.protect_refused.empty()) {
        out["protect_refused"] = report.protect_refused;
    }
    if (!report.unrecorded.empty()) {
        out["unrecorded"] = report.unrecorded;
    }
    if (!report.lost.empty()) {
        out["lost"] = report.lost;
    }
    return line(out);
}

std::string to_json(const DetachReport& report) {
    return line({{"mapped", report.mapped},
                 {"read_pages", report.read_pages},
                 {"copied_pages", report.copied_pages},
                 {"freezes", report.freezes},
                 {"longest_freeze_us", report.longest_freeze_us},
                 {"total_us", report.total_us}});
}

}  // namespace snapvm
