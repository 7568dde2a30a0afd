// SPDX-License-Identifier: Apache-2.0
// The interface of the places that a snapshot can be written to. The rounds know nothing else of
// them: not whether it is a file, how it is laid out, or what it held before.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "snapshot/write/classify.h"
#include "snapshot/write/page_table.h"
#include "snapshot/write/report.h"
#include "vmm/base/error.h"
#include "vmm/config/machine_config.h"

namespace snapvm {

inline constexpr std::size_t kMaxRunBytes = 1U << 20;  ///< bytes of one PageRun

/// Adjacent pages of one block, all with data, and what is known of them.
struct PageRun {
    std::size_t block = 0;    ///< position in block-list order
    std::uint64_t first = 0;  ///< page number in the block
    std::uint32_t round = 0;  ///< from 1; a page of a later round replaces the same page of an earlier one
    std::span<const std::byte> bytes;
    std::span<const PageFacts> facts;  ///< one for each page: class and checksum of these bytes
};

/// The state of the machine at the instant of the snapshot, without memory: the start and state
/// sections, encoded (FORMAT.md).
struct SnapshotState {
    std::vector<std::byte> start;
    std::vector<std::byte> state;
};

/// A place for one snapshot. Call begin(); then put() and drain(), any number of times; in between
/// put_state() once, while the guest stands still; then commit(). After an error only the
/// destructor may be called. If it is destroyed before commit(), the destination holds the snapshot
/// that was there before begin(), or says that it is incomplete. One thread.
class Destination {
public:
    virtual ~Destination() = default;

    /// Returns the name for messages.
    [[nodiscard]] virtual std::string_view name() const = 0;
    /// Returns the id of the snapshot that begin() gives up and that a diff can start from; nothing
    /// if there is none.
    [[nodiscard]] virtual std::optional<Uuid> previous() const = 0;
    /// Whether begin() loses nothing, so that it need not wait for the pause.
    [[nodiscard]] virtual bool is_empty() const = 0;

    /// Gives up what the destination held.
    virtual Status begin(const Uuid& machine, const Uuid& snapshot) = 0;
    /// Takes a run of at most kMaxRunBytes. The bytes are read until drain() returns: if they
    /// change meanwhile, either version may arrive. Two puts of one page need a drain() between
    /// them.
    virtual Status put(const PageRun& run) = 0;
    /// Waits until all data that was put has arrived.
    virtual Status drain() = 0;
    /// Takes the state. Fails with invalid if it does not fit. Does no I/O: the guest stands.
    virtual Status put_state(SnapshotState state) = 0;
    /// Completes the snapshot and makes it valid. `check_cancelled` is asked just before the
    /// snapshot becomes valid.
    virtual Status commit(const PageTable::Resolved& pages, std::string_view metadata,
                          const std::function<Status()>& check_cancelled) = 0;

    /// Fills in what the destination knows: bytes, slot, sequence, backend.
    virtual void fill(SnapshotReport& report) const = 0;
};

}  // namespace snapvm
