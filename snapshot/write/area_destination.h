// SPDX-License-Identifier: Apache-2.0
// An area as a destination: page data at fixed places, entries and sections at the end.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "snapshot/area/area.h"
#include "snapshot/source/source.h"
#include "snapshot/write/destination.h"
#include "snapshot/write/options.h"
#include "snapshot/write/page_sink.h"
#include "vmm/base/error.h"
#include "vmm/memory/dirty_set.h"

namespace snapvm {

/// A snapshot area (AreaWriter) behind the Destination interface. One thread.
class AreaDestination final : public Destination {
public:
    /// Opens and locks the area, or creates it (AreaWriter::open). Everything that can be refused
    /// is refused here.
    static Result<AreaDestination> open(const SnapshotSource& source, const AreaPath& path,
                                        const WriteOptions& options);
    AreaDestination(AreaDestination&&) noexcept = default;
    AreaDestination& operator=(AreaDestination&&) = delete;

    [[nodiscard]] std::string_view name() const override { return area_.file().name; }
    [[nodiscard]] std::optional<Uuid> previous() const override;
    [[nodiscard]] bool is_empty() const override { return area_.fresh(); }
    Status begin(const Uuid& machine, const Uuid& snapshot) override { return area_.begin(machine, snapshot); }
    Status put(const PageRun& run) override;
    Status drain() override { return sink_->drain(); }
    Status put_state(SnapshotState state) override;
    Status commit(const PageTable::Resolved& pages, std::string_view metadata,
                  const std::function<Status()>& check_cancelled) override;
    void fill(SnapshotReport& report) const override;

private:
    AreaDestination(AreaShape shape, AreaWriter area, std::span<const MemoryBlock> blocks)
        : shape_(std::move(shape)), area_(std::move(area)), put_(blocks) {}
    Status zero_stale(const PageTable::Resolved& pages);
    Status write_entries(const PageTable::Resolved& pages, std::vector<std::uint32_t>& crcs);

    AreaShape shape_;
    AreaWriter area_;
    AreaIdentity identity_;
    std::unique_ptr<PageSink> sink_;
    bool cached_ = false;
    SnapshotState state_;
    DirtySet put_;  ///< pages that put() was called for since begin(), even if they have no data any more
    std::uint64_t data_bytes_ = 0;
    std::uint64_t unsynced_ = 0;  ///< bytes of page data since the kernel was last told to write back
};

}  // namespace snapvm
