// SPDX-License-Identifier: Apache-2.0
#include "snapshot/report/inspect.h"

#include <fcntl.h>

#include <algorithm>
#include <ctime>

#include "devices/virtio/blk/blk.h"
#include "snapshot/area/origin.h"
#include "snapshot/area/reader.h"
#include "snapshot/format/page_entry.h"
#include "vmm/base/printable.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::uint64_t kChunkPages = 65536;

Result<BlockInfo> inspect_block(const PinnedSnapshot& snapshot, const BlockSpec& spec) {
    BlockInfo info{spec, {}, 0};
    const Section* entries = snapshot.superblock.find(SectionKind::entries, static_cast<std::uint32_t>(spec.id));
    std::vector<std::uint64_t> words(std::min(kChunkPages, spec.pages()));
    for (std::uint64_t first = 0; first < spec.pages(); first += kChunkPages) {
        const auto part = std::span(words).first(std::min(kChunkPages, spec.pages() - first));
        TRY(read_raw_entries(snapshot.file, *entries, first, part));
        for (const std::uint64_t word : part) {
            if (const auto entry = PageEntry::decode(word)) {
                ++info.pages[static_cast<std::size_t>(entry->page_class)];
            } else {
                ++info.bad_entries;
            }
        }
    }
    return info;
}

std::vector<std::uint64_t> disk_bytes_of(const MachineConfig& config, const std::vector<StateRecord>& records) {
    std::vector<std::uint64_t> bytes(config.devices.disks.size());
    for (const StateRecord& record : records) {
        if (record.kind == RecordKind::virtio_blk && record.instance < bytes.size()) {
            bytes[record.instance] = virtio::disk_bytes_in(record).value_or(0);
        }
    }
    return bytes;
}

Status show(const PinnedSnapshot& snapshot, SnapshotHead head, AreaInfo& info) {
    info.config = std::move(head.start.config);
    info.disk_bytes = disk_bytes_of(*info.config, head.records);
    info.created_us = snapshot.superblock.created_us;
    info.plan = std::move(head.plan);
    info.records = std::move(head.record_infos);
    for (const BlockSpec& spec : head.start.blocks) {
        info.blocks.push_back(TRY(inspect_block(snapshot, spec)));
    }
    if (const auto metadata = snapshot.section(SectionKind::metadata)) {
        info.metadata.assign(reinterpret_cast<const char*>(metadata->data()), metadata->size());
    } else {
        info.metadata_problem = metadata.error().what();
    }
    return {};
}

std::string superblock_text(const SuperblockInfo& info) {
    if (!info.valid) {
        return info.problem;
    }
    const Superblock& sb = *info.valid;
    const std::string state = sb.state == SlotState::complete ? "complete" : sb.sequence == 0 ? "empty" : "writing";
    return state + ", sequence " + std::to_string(sb.sequence) + ", snapshot " + sb.snapshot_id.text() + ", slot " +
           std::to_string(sb.slot) + " at " + std::to_string(sb.slot_offset) + ", " + std::to_string(sb.slot_size) +
           " bytes";
}

// Pads the text to the width of a column.
std::string column(std::string text, std::size_t width) {
    text.resize(std::max(text.size() + 1, width), ' ');
    return text;
}

std::string time_text(std::uint64_t us) {
    const auto seconds = static_cast<std::time_t>(us / 1'000'000);
    std::tm parts{};
    std::array<char, 64> text{};
    if (::gmtime_r(&seconds, &parts) == nullptr ||
        std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S UTC", &parts) == 0) {
        return std::to_string(us) + " us after 1970";
    }
    return text.data();
}

std::string devices_text(const AreaInfo& info) {
    const DeviceConfig& devices = info.config->devices;
    std::string out;
    for (std::size_t i = 0; i < devices.disks.size(); ++i) {
        const DiskConfig& disk = devices.disks[i];
        out += column("disk " + printable(disk.id), 14) + size_text(info.disk_bytes[i]) + ", " +
               std::string(name_of(disk.format)) + (disk.read_only ? ", read-only, " : ", written, ") +
               (disk.write_errors == WriteErrors::stop ? "stops on write errors, " : "") + printable(disk.path) + "\n";
    }
    for (const NetConfig& net : devices.nets) {
        out += column("net " + printable(net.id), 14) + mac_text(net.mac) + ", tap " + printable(net.tap) + "\n";
    }
    if (devices.vsock) {
        out += column("vsock", 14) + "cid " + std::to_string(devices.vsock->cid) + ", socket " +
               printable(devices.vsock->socket) + "\n";
    }
    if (devices.balloon) {
        out += column("balloon", 14) + size_text(devices.balloon->bytes) + " at first\n";
    }
    out += devices.rng ? "rng\n" : "";
    out += devices.console ? "console\n" : "";
    return out;
}

std::string blocks_text(const AreaInfo& info) {
    std::string out = column("block", 12) + column("pages", 10);
    for (std::size_t c = 0; c < kPageClassCount; ++c) {
        out += column(std::string(name_of(static_cast<PageClass>(c))), 10);
    }
    out += "\n";
    for (const BlockInfo& block : info.blocks) {
        out += column(std::string(name_of(block.spec.id)), 12) + column(std::to_string(block.spec.pages()), 10);
        for (const std::uint64_t count : block.pages) {
            out += column(std::to_string(count), 10);
        }
        out += block.bad_entries == 0 ? "\n" : std::to_string(block.bad_entries) + " damaged\n";
    }
    return out;
}

}  // namespace

Result<AreaInfo> inspect_area(const AreaPath& path) {
    const AreaFile file = TRY(AreaFile::open(path, O_RDONLY));
    const SuperblockPair pair = TRY(SuperblockPair::read(file));
    AreaInfo info;
    info.area = path.text();
    info.device = file.device;
    info.room = file.room();
    const auto strict = pair.choose(file.name, false);
    if (!strict) {
        if (strict.error().kind() == ErrorKind::unsupported || !pair.has_magic()) {
            return fail(strict.error());
        }
        info.problem = strict.error().message();
    }
    for (std::size_t i = 0; i < kSuperblockCopies; ++i) {
        info.superblocks[i] = {pair.copies[i].valid, pair.copies[i].problem ? pair.copies[i].problem->what() : ""};
    }
    const Superblock* newest = pair.newest_complete();
    if (newest == nullptr) {
        return info;
    }
    if (strict) {
        info.lost = pair.what_is_lost();
        info.chosen = newest == &*pair.copies[0].valid ? 0 : 1;
    }
    const auto snapshot = pin_snapshot(path, *newest);
    auto head = snapshot ? check_snapshot(*snapshot) : Result<SnapshotHead>(fail(snapshot.error()));
    if (!head) {
        info.problem = head.error().message();
        info.chosen.reset();
        return info;
    }
    TRY(show(*snapshot, *std::move(head), info));
    return info;
}

std::string to_text(const AreaInfo& info) {
    std::string out = column("area", 14) + printable(info.area) + (info.device ? " (block device)" : "") + "\n";
    for (std::size_t i = 0; i < kSuperblockCopies; ++i) {
        out += column("superblock " + std::to_string(i), 14) + superblock_text(info.superblocks[i]) + "\n";
    }
    out += column("snapshot", 14) +
           (info.problem.empty() ? "complete, of superblock " + std::to_string(info.chosen.value_or(0))
                                 : printable(info.problem)) +
           "\n";
    out += info.lost.empty() ? "" : column("warning", 14) + printable(info.lost) + "\n";
    if (info.config) {
        out += column("machine", 14) + info.config->machine_id.text() + ", " + size_text(info.config->memory_bytes) +
               ", " + count_text(info.config->cpus, "vCPU") + ", kernel " + printable(info.config->kernel) + "\n";
        out += column("created", 14) + time_text(info.created_us) + "\n" + devices_text(info);
    }
    if (info.chosen) {
        out += "\n" + column("section", 14) + column("block", 12) + column("offset", 14) + column("capacity", 14) +
               column("length", 14) + "\n";
        for (const Section& section : info.superblocks[*info.chosen].valid->sections) {
            out += column(std::string(name_of(section.kind)), 14) +
                   column(section.block == 0 ? "-" : std::string(name_of(static_cast<BlockId>(section.block))), 12) +
                   column(std::to_string(section.offset), 14) + column(std::to_string(section.capacity), 14) +
                   std::to_string(section.length) + "\n";
        }
    }
    if (!info.blocks.empty()) {
        out += "\n" + blocks_text(info);
    }
    out += info.metadata_problem.empty() ? "" : "\nmetadata: " + info.metadata_problem + "\n";
    if (!info.records.empty()) {
        out +=
            "\n" + column("record", 14) + column("instance", 12) + column("version", 10) + column("length", 10) + "\n";
        for (const RecordInfo& record : info.records) {
            out += column(std::string(name_of(record.kind)), 14) + column(std::to_string(record.instance), 12) +
                   column(std::to_string(record.version), 10) + std::to_string(record.length) + "\n";
        }
    }
    out += info.plan.empty() ? "" : "\nmap plan: " + count_text(info.plan.size(), "run") + " without data\n";
    return out;
}

}  // namespace snapvm
