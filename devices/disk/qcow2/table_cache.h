// SPDX-License-Identifier: Apache-2.0
// Pieces of an image's tables (L2 tables, refcount blocks) in memory, up to a number of them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "devices/disk/io/disk_io.h"
#include "devices/disk/io/task.h"

namespace snapvm::disk::qcow2 {

/// A piece is piece_size() bytes of the file, aligned to that. What is changed stays in memory
/// until write_dirty(). Clean pieces that are in no use make room for others, the least recently
/// used first. If all are dirty or in use, the cache grows beyond its limit; then crowded() is
/// true.
class TableCache {
public:
    struct Piece;
    /// Keeps a piece where it is.
    class Ref {
    public:
        Ref() = default;
        [[nodiscard]] std::span<const std::byte> bytes() const;
        /// For a change before the next co_await: marks the piece as dirty.
        [[nodiscard]] std::span<std::byte> change();

    private:
        friend class TableCache;
        explicit Ref(std::shared_ptr<Piece> piece) : piece_(std::move(piece)) {}
        std::shared_ptr<Piece> piece_;
    };

    /// Returns the size of a piece: 4 KiB, or a cluster if that is smaller.
    static constexpr std::size_t piece_size_of(std::uint64_t cluster_size) {
        return std::min<std::uint64_t>(cluster_size, 4096);
    }

    TableCache(DiskIo& file, std::uint64_t cluster_size, std::size_t max_pieces);
    ~TableCache();

    [[nodiscard]] std::size_t piece_size() const { return piece_size_; }
    /// Returns the piece that has the byte at `offset`; reads it if it is not here. Two tasks that
    /// ask for the same piece get the same one.
    Task<Result<Ref>> get(std::uint64_t offset);
    /// Returns the bytes of the piece that has the byte at `offset`, or nothing if get() would wait
    /// or fail. They are valid until the caller waits, or calls anything else of this object.
    [[nodiscard]] std::span<const std::byte> peek(std::uint64_t offset);
    /// Puts a new piece of zeros here, dirty, without a read. It must not be here yet.
    Ref make(std::uint64_t offset);
    /// Forgets the pieces of a range, also dirty ones: it is not a table any more. A piece that is
    /// in use stays with its users, and is never written. A write that is under way goes on: the
    /// range must not be used for something else until the next write_dirty() has ended.
    void forget(std::uint64_t offset, std::uint64_t size);
    /// Writes the pieces that are dirty now, each as it is now. One that is changed meanwhile stays
    /// dirty, and so does one whose write fails. Does not flush.
    Task<Status> write_dirty();
    [[nodiscard]] std::size_t dirty() const { return dirty_.size(); }
    /// Returns whether it is time for write_dirty(): half of the limit is dirty.
    [[nodiscard]] bool crowded() const { return dirty_.size() * 2 >= max_pieces_; }

private:
    using Order = std::list<std::shared_ptr<Piece>>;
    struct Run;
    const std::shared_ptr<Piece>& put(std::uint64_t offset);
    void remove(std::uint64_t offset);
    void make_room();
    void erase(const Piece& piece);
    [[nodiscard]] Piece*& recent(std::uint64_t offset) { return recent_[(offset >> piece_bits_) % recent_.size()]; }
    void mark_dirty(const std::shared_ptr<Piece>& piece);
    std::vector<Run> take_dirty();
    void take_back(const Run& run);
    Task<Status> write_run(const Run& run);
    Task<Status> write_runs(std::span<const Run> runs);

    DiskIo& file_;
    std::size_t piece_size_;
    unsigned piece_bits_;  ///< the size is this power of two
    std::size_t max_pieces_;
    Order order_;  ///< the least recently used first
    std::unordered_map<std::uint64_t, Order::iterator> pieces_;  ///< by offset
    /// Some of the pieces, by a part of their offset: quicker to find than among all.
    std::array<Piece*, 64> recent_{};
    std::map<std::uint64_t, std::shared_ptr<Piece>> dirty_;      ///< by offset
    Mutex writing_;
    std::uint64_t failures_ = 0;  ///< of write_dirty()
    Status last_failure_;
};

}  // namespace snapvm::disk::qcow2
