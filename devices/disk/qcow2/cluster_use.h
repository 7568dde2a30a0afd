// SPDX-License-Identifier: Apache-2.0
// What a check finds out about each cluster of an image.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>

namespace snapvm::disk::qcow2 {

/// What a cluster is used for. Only data and L2 tables may have several uses, each of the same
/// kind.
enum class Use : std::uint8_t { data = 1, l2_table = 2, other_table = 4 };

struct ClusterState {
    std::uint32_t uses = 0;
    std::uint32_t kinds = 0;   ///< a bit for each Use
    std::uint64_t stored = 0;  ///< the reference count that the image has

    [[nodiscard]] bool overlaps() const {
        return (kinds & (kinds - 1)) != 0 || (kinds == static_cast<std::uint32_t>(Use::other_table) && uses > 1);
    }
};

/// The states of all clusters. Those that nothing touches cost no memory.
class ClusterStates {
public:
    static constexpr std::uint64_t kChunk = 512;
    using Chunk = std::array<ClusterState, kChunk>;

    [[nodiscard]] bool too_large() const { return chunks_.size() * sizeof(Chunk) >= kMaxBytes; }
    [[nodiscard]] ClusterState get(std::uint64_t cluster) const {
        const auto found = chunks_.find(cluster / kChunk);
        return found == chunks_.end() ? ClusterState() : (*found->second)[cluster % kChunk];
    }
    [[nodiscard]] ClusterState& change(std::uint64_t cluster) {
        std::unique_ptr<Chunk>& chunk = chunks_[cluster / kChunk];
        if (!chunk) {
            chunk = std::make_unique<Chunk>();
        }
        return (*chunk)[cluster % kChunk];
    }
    void add(std::uint64_t cluster, std::uint32_t times, Use use) {
        ClusterState& state = change(cluster);
        state.uses = static_cast<std::uint32_t>(std::min<std::uint64_t>(std::uint64_t{state.uses} + times, ~0U));
        state.kinds |= static_cast<std::uint32_t>(use);
    }
    /// Calls visit(cluster, state) in the order of the clusters.
    template <class Visit>
    void for_each(Visit visit) {
        for (auto& [index, chunk] : chunks_) {
            for (std::uint64_t i = 0; i < kChunk; ++i) {
                visit(index * kChunk + i, (*chunk)[i]);
            }
        }
    }

private:
    static constexpr std::uint64_t kMaxBytes = 1ULL << 30;
    std::map<std::uint64_t, std::unique_ptr<Chunk>> chunks_;
};

}  // namespace snapvm::disk::qcow2
