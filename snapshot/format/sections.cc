// SPDX-License-Identifier: Apache-2.0
#include "snapshot/format/sections.h"

#include <algorithm>
#include <limits>

#include "snapshot/format/superblock.h"
#include "vmm/base/bytes.h"
#include "vmm/base/crc32c.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr std::size_t kMaxConfig = 1U << 20;
constexpr std::size_t kMaxRecord = 16U << 20;
constexpr std::uint64_t kHugePages = kHugePageSize / kPageSize;

// Covers the record's header too, so that a damaged kind or length is found.
std::uint32_t record_crc(const RecordInfo& info, std::span<const std::byte> bytes) {
    Encoder header;
    header.u16(static_cast<std::uint16_t>(info.kind));
    header.u16(info.version);
    header.u32(info.instance);
    header.u32(info.length);
    return crc32c(bytes, crc32c(header.bytes()));
}

Status check_reserved(std::uint32_t reserved, std::string_view what) {
    if (reserved != 0) {
        return fail(ErrorKind::invalid, std::string(what) + " has reserved bytes in use");
    }
    return {};
}

Status check_blocks(std::span<const BlockSpec> blocks, std::uint64_t total) {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        const BlockSpec& a = blocks[i];
        const bool fits = a.size != 0 && is_page_aligned(a.size) && is_page_aligned(a.base.value) &&
                          a.size < 1ULL << 56 && a.base.value < 1ULL << 56;
        const auto clashes = [&](const BlockSpec& b) {
            return a.id == b.id || (a.base < b.base + b.size && b.base < a.base + a.size);
        };
        if (!fits || static_cast<std::uint32_t>(a.id) == 0 || std::ranges::any_of(blocks.first(i), clashes)) {
            return fail(ErrorKind::invalid, "machine start section has a bad block " + std::string(name_of(a.id)));
        }
        sum += a.size;
    }
    if (sum != total || blocks.empty()) {
        return fail(ErrorKind::invalid, "machine start section has blocks of " + std::to_string(sum) +
                                            " bytes, and says " + std::to_string(total));
    }
    return {};
}

}  // namespace

std::vector<std::byte> StartSection::encode() const {
    Encoder out;
    out.u32(static_cast<std::uint32_t>(blocks.size()));
    out.u32(0);
    std::uint64_t total = 0;
    for (const BlockSpec& block : blocks) {
        out.u32(static_cast<std::uint32_t>(block.id));
        out.u32(0);
        out.u64(block.base.value);
        out.u64(block.size);
        total += block.size;
    }
    out.u64(total);
    out.blob(config.encode());
    return out.take();
}

Result<StartSection> StartSection::decode(std::span<const std::byte> bytes) {
    Decoder in(bytes);
    StartSection start;
    const std::uint32_t count = in.u32();
    std::uint32_t reserved = in.u32();
    if (count > kMaxBlocks) {
        return fail(ErrorKind::invalid, "machine start section has " + std::to_string(count) + " blocks");
    }
    for (std::uint32_t i = 0; i < count; ++i) {
        BlockSpec block;
        block.id = static_cast<BlockId>(in.u32());
        reserved |= in.u32();
        block.base = Gpa{in.u64()};
        block.size = in.u64();
        start.blocks.push_back(block);
    }
    const std::uint64_t total = in.u64();
    const std::span<const std::byte> config = in.blob(kMaxConfig);
    TRY(in.finish("machine start section"));
    TRY(check_reserved(reserved, "machine start section"));
    TRY(check_blocks(start.blocks, total));
    start.config = TRY(MachineConfig::decode(config));
    return start;
}

std::vector<std::byte> encode_state(std::span<const StateRecord> records) {
    Encoder out;
    out.u32(static_cast<std::uint32_t>(records.size()));
    out.u32(0);
    for (const StateRecord& record : records) {
        const RecordInfo info{record.kind, record.version, record.instance,
                              static_cast<std::uint32_t>(record.bytes.size()), 0};
        out.u16(static_cast<std::uint16_t>(info.kind));
        out.u16(info.version);
        out.u32(info.instance);
        out.u32(info.length);
        out.u32(record_crc(info, record.bytes));
        out.raw(record.bytes);
    }
    return out.take();
}

Result<std::vector<StateRecord>> decode_state(std::span<const std::byte> bytes, std::vector<RecordInfo>* infos) {
    Decoder in(bytes);
    const std::uint32_t count = in.u32();
    TRY(check_reserved(in.u32(), "machine state"));
    std::vector<StateRecord> records;
    for (std::uint32_t i = 0; i < count && !in.bad(); ++i) {
        RecordInfo info;
        info.kind = static_cast<RecordKind>(in.u16());
        info.version = in.u16();
        info.instance = in.u32();
        info.length = in.u32();
        info.crc = in.u32();
        if (info.length > kMaxRecord) {
            return fail(ErrorKind::invalid,
                        "state record " + std::to_string(i) + " has " + std::to_string(info.length) + " bytes");
        }
        const std::span<const std::byte> body = in.take(info.length);
        if (!in.bad() && record_crc(info, body) != info.crc) {
            return fail(ErrorKind::invalid, "state record " + std::to_string(i) + " (" +
                                                std::string(name_of(info.kind)) + " " + std::to_string(info.instance) +
                                                ") has a wrong checksum");
        }
        records.push_back({info.kind, info.version, info.instance, {body.begin(), body.end()}});
        if (infos != nullptr) {
            infos->push_back(info);
        }
    }
    TRY(in.finish("machine state"));
    return records;
}

std::vector<std::byte> encode_plan(std::span<const PlanRun> runs) {
    Encoder out;
    out.u32(static_cast<std::uint32_t>(runs.size()));
    out.u32(0);
    for (const PlanRun& run : runs) {
        out.u32(static_cast<std::uint32_t>(run.block));
        out.u32(0);
        out.u64(run.first);
        out.u64(run.count);
    }
    return out.take();
}

Result<std::vector<PlanRun>> decode_plan(std::span<const std::byte> bytes, std::span<const BlockSpec> blocks) {
    Decoder in(bytes);
    const std::uint32_t count = in.u32();
    std::uint32_t reserved = in.u32();
    if (count > kMaxPlanRuns) {
        return fail(ErrorKind::invalid, "map plan has " + std::to_string(count) + " runs");
    }
    std::vector<PlanRun> runs;
    for (std::uint32_t i = 0; i < count; ++i) {
        PlanRun run;
        run.block = static_cast<BlockId>(in.u32());
        reserved |= in.u32();
        run.first = in.u64();
        run.count = in.u64();
        runs.push_back(run);
    }
    TRY(in.finish("map plan"));
    TRY(check_reserved(reserved, "map plan"));
    for (std::size_t i = 0; i < runs.size(); ++i) {
        const PlanRun& a = runs[i];
        auto block = std::ranges::find(blocks, a.block, &BlockSpec::id);
        const bool inside =
            block != blocks.end() && a.count != 0 && a.first < block->pages() && a.count <= block->pages() - a.first;
        const auto overlaps = [&](const PlanRun& b) {
            return a.block == b.block && a.first < b.first + b.count && b.first < a.first + a.count;
        };
        if (!inside || a.first % kHugePages != 0 || a.count % kHugePages != 0 ||
            block->base.value % kHugePageSize != 0 || std::ranges::any_of(std::span(runs).first(i), overlaps)) {
            return fail(ErrorKind::invalid, "map plan has a bad run " + std::to_string(i));
        }
    }
    return runs;
}

}  // namespace snapvm
