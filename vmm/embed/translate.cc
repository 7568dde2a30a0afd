// SPDX-License-Identifier: Apache-2.0
#include "vmm/embed/translate.h"

#include <algorithm>
#include <utility>

#include "devices/config/mac_address.h"
#include "vmm/base/absolute_path.h"
#include "vmm/base/try.h"
#include "vmm/crash/report.h"

namespace snapvm::embed {
namespace {

using std::chrono::microseconds;

snapvm::BootProtocol to_internal(BootProtocol boot) {
    switch (boot) {
        case BootProtocol::automatic: break;
        case BootProtocol::pvh: return snapvm::BootProtocol::pvh;
        case BootProtocol::linux64: return snapvm::BootProtocol::linux64;
    }
    return snapvm::BootProtocol::automatic;
}

snapvm::DiskFormat to_internal(DiskFormat format) {
    switch (format) {
        case DiskFormat::unstated: break;
        case DiskFormat::raw: return snapvm::DiskFormat::raw;
        case DiskFormat::qcow2: return snapvm::DiskFormat::qcow2;
    }
    return snapvm::DiskFormat::unstated;
}

snapvm::Ephemeral to_internal(Ephemeral ephemeral) {
    switch (ephemeral) {
        case Ephemeral::off: break;
        case Ephemeral::memory: return snapvm::Ephemeral::memory;
        case Ephemeral::file: return snapvm::Ephemeral::file;
    }
    return snapvm::Ephemeral::off;
}

snapvm::SnapshotMode to_internal(SnapshotMode mode) {
    switch (mode) {
        case SnapshotMode::live: break;
        case SnapshotMode::precopy: return snapvm::SnapshotMode::precopy;
        case SnapshotMode::stop: return snapvm::SnapshotMode::stop;
    }
    return snapvm::SnapshotMode::live;
}

snapvm::SnapshotType to_internal(SnapshotType type) {
    switch (type) {
        case SnapshotType::automatic: break;
        case SnapshotType::full: return snapvm::SnapshotType::full;
        case SnapshotType::diff: return snapvm::SnapshotType::diff;
    }
    return snapvm::SnapshotType::automatic;
}

snapvm::AfterSnapshot to_internal(AfterSnapshot then) {
    switch (then) {
        case AfterSnapshot::as_before: break;
        case AfterSnapshot::pause: return snapvm::AfterSnapshot::pause;
        case AfterSnapshot::stop: return snapvm::AfterSnapshot::stop;
    }
    return snapvm::AfterSnapshot::as_before;
}

Outcome::Kind to_public(snapvm::Outcome::Kind kind) {
    using Kind = snapvm::Outcome::Kind;
    switch (kind) {
        case Kind::power_off: return Outcome::Kind::power_off;
        case Kind::reboot: return Outcome::Kind::reboot;
        case Kind::guest_exit: return Outcome::Kind::guest_exit;
        case Kind::triple_fault: return Outcome::Kind::triple_fault;
        case Kind::guest_panic: return Outcome::Kind::guest_panic;
        case Kind::failed: return Outcome::Kind::failed;
        case Kind::stopped:
        case Kind::timed_out: break;  // the command line's, never a machine's own
    }
    return Outcome::Kind::stopped;
}

NetworkStatistics to_public(const NetworkStats& stats) {
    const auto value = [&](std::string_view name) {
        const auto found = std::ranges::find(stats.counters, name, &Counters::Value::name);
        return found == stats.counters.end() ? 0 : found->value;
    };
    return {.id = stats.id,
            .link_up = stats.link_up,
            .received_frames = value("received_frames"),
            .received_bytes = value("received_bytes"),
            .received_dropped = value("received_dropped"),
            .transmitted_frames = value("transmitted_frames"),
            .transmitted_bytes = value("transmitted_bytes"),
            .transmitted_dropped = value("transmitted_dropped")};
}

}  // namespace

Result<snapvm::MachineConfig> to_internal(const MachineConfig& config) {
    snapvm::MachineConfig result;
    result.memory_bytes = config.memory_bytes;
    result.cpus = config.cpus;
    result.boot = to_internal(config.boot);
    result.kernel = config.kernel;
    result.initrds = config.initrds;
    result.cmdline = config.command_line;
    DeviceConfig& devices = result.devices;
    for (const Disk& disk : config.disks) {
        devices.disks.push_back({disk.id, TRY(absolute_path(disk.path)), disk.read_only, to_internal(disk.format)});
        devices.disks.back().write_errors =
            disk.write_errors == WriteErrors::stop ? snapvm::WriteErrors::stop : snapvm::WriteErrors::report;
        devices.disks.back().ephemeral = to_internal(disk.ephemeral);
        devices.disks.back().ephemeral_max = disk.ephemeral_max_bytes;
        for (const std::string& path : disk.backing) {
            devices.disks.back().backing.push_back(TRY(absolute_path(path)));
        }
    }
    for (const Network& network : config.networks) {
        devices.nets.push_back(
            {network.id, network.tap, TRY(network.mac.empty() ? random_mac() : parse_mac(network.mac))});
    }
    if (config.vsock) {
        devices.vsock = VsockConfig{config.vsock->cid, config.vsock->socket};
    }
    if (config.balloon_bytes) {
        devices.balloon = BalloonConfig{*config.balloon_bytes};
    }
    devices.rng = config.rng;
    result.machine_id = TRY(Uuid::random());
    TRY(result.validate());
    return result;
}

// With the offset behind it, a path that ends in @DIGITS is not split.
Result<AreaPath> to_internal(const Area& area) {
    return AreaPath::parse(area.path + "@" + std::to_string(area.offset));
}

Result<SnapshotRequest> to_internal(const Area& area, const SnapshotOptions& options) {
    SnapshotRequest request;
    request.area = TRY(to_internal(area));
    request.mode = to_internal(options.mode);
    request.type = to_internal(options.type);
    request.then = to_internal(options.then);
    request.track = options.track;
    request.live.max_pause = std::max(options.max_pause, microseconds(0));
    return request;
}

Result<RestoreRequest> to_internal(const Area& area, const RestoreOptions& options) {
    RestoreRequest request;
    request.area = TRY(to_internal(area));
    request.share = options.share_equal_pages;
    request.trust_paths = options.trust_paths;
    request.max_memory_bytes = options.max_memory_bytes;
    request.gap = options.clock_shows_gap ? GapMode::seen : GapMode::hidden;
    request.devices = {.disks = options.disks,
                       .taps = options.taps,
                       .vsock_socket = options.vsock_socket,
                       .vsock_cid = options.vsock_cid};
    return request;
}

State to_public(ServiceState state) {
    switch (state) {
        case ServiceState::not_started:
        case ServiceState::paused: return State::paused;
        case ServiceState::running: return State::running;
        case ServiceState::ended: break;
    }
    return State::ended;
}

Outcome to_public(const snapvm::Outcome& outcome) {
    return {.kind = to_public(outcome.kind),
            .code = outcome.code,
            .error = outcome.error,
            .crash_report = outcome.crash ? to_text(*outcome.crash) : "",
            .exit_code = outcome.exit_code(),
            .name = std::string(outcome.name())};
}

SnapshotReport to_public(const snapvm::SnapshotReport& report) {
    const auto pages = [&](PageClass page_class) { return report.pages[static_cast<std::size_t>(page_class)]; };
    SnapshotReport result;
    result.pause = microseconds(report.pause_us);
    result.total = microseconds(report.total_us);
    for (const snapvm::SnapshotRound& round : report.rounds) {
        result.rounds.push_back({round.dirty_pages, round.written_bytes, microseconds(round.us)});
    }
    result.pages = {.absent = pages(PageClass::absent),
                    .zero = pages(PageClass::zero),
                    .common = pages(PageClass::common),
                    .shared = pages(PageClass::shared),
                    .balloon = pages(PageClass::balloon),
                    .free = pages(PageClass::free),
                    .swapped = pages(PageClass::swapped)};
    result.area_bytes = report.area_bytes;
    result.written_bytes = report.written_bytes;
    result.staging_peak_bytes = report.staging_peak_bytes;
    result.tracker = report.tracker;
    result.full = report.type == "full";
    result.diverged = report.diverged;
    result.unrecorded = report.unrecorded;
    return result;
}

Statistics to_public(const ServiceStats& stats) {
    Statistics result{.uptime = microseconds(stats.uptime_us),
                      .exits = stats.exits,
                      .ready = stats.ready,
                      .ready_value = stats.ready_value,
                      .marks = stats.marks,
                      .mark = stats.mark,
                      .serial_bytes = stats.serial_bytes};
    for (const NetworkStats& network : stats.networks) {
        result.networks.push_back(to_public(network));
    }
    return result;
}

}  // namespace snapvm::embed
