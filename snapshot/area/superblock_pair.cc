// SPDX-License-Identifier: Apache-2.0
#include "snapshot/area/superblock_pair.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vmm/base/crc32c.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

// Whether both superblocks can be of the same area.
bool same_area(const Superblock& a, const Superblock& b) { return a.area_size == b.area_size && a.slots == b.slots; }

}  // namespace

void SuperblockPair::decode(std::string_view name) {
    for (std::size_t i = 0; i < copies.size(); ++i) {
        Copy& copy = copies[i];
        copy = {};
        const auto block = std::span(bytes).subspan(i * kSuperblockSize, kSuperblockSize);
        copy.blank = is_all_zero(block);
        copy.table_crc = crc32c(block.subspan(kSuperblockHeaderSize));
        auto decoded = Superblock::decode(block, std::string(name) + ": superblock " + std::to_string(i));
        if (decoded && decoded->slots == 2 && decoded->slot != i) {
            decoded = fail(ErrorKind::invalid,
                           std::string(name) + ": superblock " + std::to_string(i) + " is that of the other slot");
        }
        if (decoded) {
            copy.valid = *std::move(decoded);
        } else {
            copy.problem = std::move(decoded).error();
            auto header = Superblock::decode_header(block, name);
            if (header && (header->slots != 2 || header->slot == i)) {
                copy.header = *std::move(header);
            }
        }
    }
}

Result<SuperblockPair> SuperblockPair::read(const AreaFile& file) {
    SuperblockPair pair;
    const std::uint64_t size = std::min<std::uint64_t>(pair.bytes.size(), file.room());
    TRY(file.read(std::span(pair.bytes).first(size), 0));
    pair.decode(file.name);
    return pair;
}

bool SuperblockPair::has_magic() const {
    return has_area_magic(bytes) || has_area_magic(std::span(bytes).subspan(kSuperblockSize));
}

const Superblock* SuperblockPair::any() const {
    const Superblock* complete = newest_complete();
    if (complete != nullptr) {
        return complete;
    }
    auto found = std::ranges::find_if(copies, [](const Copy& copy) { return copy.valid.has_value(); });
    return found == copies.end() ? nullptr : &*found->valid;
}

std::uint64_t SuperblockPair::highest_sequence() const {
    std::uint64_t highest = 0;
    for (const Copy& copy : copies) {
        const auto& seen = copy.valid ? copy.valid : copy.header;
        highest = std::max(highest, seen ? seen->sequence : 0);
    }
    return highest;
}

const Superblock* SuperblockPair::newest_complete() const {
    const Superblock* best = nullptr;
    for (const Copy& copy : copies) {
        if (!copy.valid || (best != nullptr && best->sequence >= copy.valid->sequence)) {
            continue;
        }
        // With one slot both superblocks describe the same bytes: a newer unfinished one means that
        // the older snapshot is overwritten.
        if (copy.valid->slots == 1 || copy.valid->state == SlotState::complete) {
            best = &*copy.valid;
        }
    }
    return best != nullptr && best->state == SlotState::complete ? best : nullptr;
}

bool SuperblockPair::is_damaged_older(const Copy& copy) const {
    const Superblock* newest = newest_complete();
    return copy.header && newest != nullptr && newest->slots == 2 && copy.header->sequence < newest->sequence;
}

std::string SuperblockPair::what_is_lost() const {
    for (const Copy& copy : copies) {
        if (copy.problem) {
            const bool known = copy.header && copy.header->state == SlotState::complete;
            return copy.problem->what() + (known ? ": snapshot " + copy.header->snapshot_id.text() + ", sequence " +
                                                       std::to_string(copy.header->sequence) + ", is lost"
                                                 : ": what it told of is lost");
        }
    }
    return {};
}

Result<const Superblock*> SuperblockPair::choose(std::string_view name, bool salvage) const {
    for (const Copy& copy : copies) {
        if (copy.problem && copy.problem->kind() == ErrorKind::unsupported) {
            return fail(*copy.problem);
        }
    }
    if (any() == nullptr) {
        if (has_magic()) {
            return fail(*copies[has_area_magic(bytes) ? 0 : 1].problem);
        }
        return fail(ErrorKind::invalid, std::string(name) + " is not a snapshot area", "check the path and the offset");
    }
    const Superblock* winner = newest_complete();
    if (!salvage) {
        for (const Copy& copy : copies) {
            if (copy.problem && !is_damaged_older(copy)) {
                return fail(*copy.problem);
            }
        }
        const auto& [first, second] = copies;
        if (!same_area(first.valid ? *first.valid : *first.header, second.valid ? *second.valid : *second.header)) {
            return fail(ErrorKind::invalid, std::string(name) + ": the two superblocks are of different areas");
        }
        if (winner != nullptr && first.valid && second.valid && first.valid->sequence == second.valid->sequence) {
            return fail(ErrorKind::invalid, std::string(name) + ": the two superblocks have one sequence number",
                        "the area is damaged: restore another snapshot");
        }
        // With one slot and no writer at work, the table of the other copy matches its checksum
        // too: a mismatch is damage.
        for (std::size_t i = 0; winner != nullptr && winner->slots == 1 && i < copies.size(); ++i) {
            if (copies[i].table_crc != copies[i].valid->table_crc) {
                return fail(ErrorKind::invalid, std::string(name) + ": superblock " + std::to_string(i) +
                                                    " has a section table with a wrong checksum");
            }
        }
    }
    if (winner == nullptr) {
        const bool never = highest_sequence() == 0;
        return fail(
            ErrorKind::incomplete,
            std::string(name) + (never ? " holds no snapshot yet" : " is incomplete: its last writer did not finish"),
            "take a snapshot into it first");
    }
    return winner;
}

}  // namespace snapvm
