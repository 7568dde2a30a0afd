// SPDX-License-Identifier: Apache-2.0
// Pieces of an image's tables in memory. A shared pointer counts who uses a piece: a task, the
// dirty ones, a write that is under way. One that only the cache itself has may make room.
#include "devices/disk/qcow2/table_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "devices/disk/qcow2/concurrency.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::size_t kWritesAtOnce = 16;
constexpr std::size_t kRunBytes = 256U << 10;  // the most that one write has
constexpr unsigned kLooks = 32;                // for a piece that may make room, each time

}  // namespace

struct TableCache::Piece {
    TableCache* cache = nullptr;  ///< null if the cache has forgotten the piece
    std::uint64_t offset = 0;
    Order::iterator place;  ///< in the cache's order
    std::vector<std::byte> bytes;
    bool dirty = false;
    bool reading = false;
    Status read;  ///< how the read has ended
    WaitList readers;
};

/// Neighbours that were dirty, as they were at that moment.
struct TableCache::Run {
    std::uint64_t offset = 0;
    std::vector<std::byte> bytes;
    std::vector<std::shared_ptr<Piece>> pieces;
};

std::span<const std::byte> TableCache::Ref::bytes() const { return piece_->bytes; }

std::span<std::byte> TableCache::Ref::change() {
    if (piece_->cache != nullptr) {
        piece_->cache->mark_dirty(piece_);
    }
    return piece_->bytes;
}

TableCache::TableCache(DiskIo& file, std::uint64_t cluster_size, std::size_t max_pieces)
    : file_(file),
      piece_size_(piece_size_of(cluster_size)),
      piece_bits_(static_cast<unsigned>(std::countr_zero(piece_size_))),
      max_pieces_(std::max<std::size_t>(max_pieces, 1)) {}

TableCache::~TableCache() = default;

void TableCache::mark_dirty(const std::shared_ptr<Piece>& piece) {
    if (!piece->dirty) {
        piece->dirty = true;
        dirty_.emplace(piece->offset, piece);
    }
}

void TableCache::make_room() {
    for (unsigned looks = 0; pieces_.size() >= max_pieces_ && looks < kLooks; ++looks) {
        if (order_.front().use_count() == 1) {
            erase(*order_.front());
        } else {
            order_.splice(order_.end(), order_, order_.begin());
        }
    }
}

void TableCache::erase(const Piece& piece) {
    if (recent(piece.offset) == &piece) {
        recent(piece.offset) = nullptr;
    }
    pieces_.erase(piece.offset);
    order_.erase(piece.place);
}

const std::shared_ptr<TableCache::Piece>& TableCache::put(std::uint64_t offset) {
    make_room();
    auto piece = std::make_shared<Piece>();
    piece->cache = this;
    piece->offset = offset;
    piece->bytes.resize(piece_size_);
    order_.push_back(std::move(piece));
    order_.back()->place = std::prev(order_.end());
    pieces_[offset] = order_.back()->place;
    return order_.back();
}

void TableCache::remove(std::uint64_t offset) {
    const auto found = pieces_.find(offset);
    if (found == pieces_.end()) {
        return;
    }
    const std::shared_ptr<Piece> piece = *found->second;
    piece->cache = nullptr;
    piece->dirty = false;
    dirty_.erase(offset);
    erase(*piece);
}

Task<Result<TableCache::Ref>> TableCache::get(std::uint64_t offset) {
    offset &= ~std::uint64_t{piece_size_ - 1};
    if (const auto found = pieces_.find(offset); found != pieces_.end()) {
        const std::shared_ptr<Piece> piece = *found->second;
        order_.splice(order_.end(), order_, found->second);
        if (piece->reading) {
            co_await piece->readers.wait();
        }
        CO_TRY(piece->read);
        co_return Ref(piece);
    }
    const std::shared_ptr<Piece> piece = put(offset);
    piece->reading = true;
    const std::span<std::byte> bytes = piece->bytes;
    piece->read = co_await file_.read(offset, bytes);
    piece->reading = false;
    if (!piece->read && piece->cache != nullptr) {
        remove(offset);
    }
    piece->readers.wake_all();
    CO_TRY(piece->read);
    co_return Ref(piece);
}

std::span<const std::byte> TableCache::peek(std::uint64_t offset) {
    offset &= ~std::uint64_t{piece_size_ - 1};
    Piece*& piece = recent(offset);
    if (piece == nullptr || piece->offset != offset) {
        const auto found = pieces_.find(offset);
        if (found == pieces_.end()) {
            return {};
        }
        piece = found->second->get();
    }
    if (piece->reading || !piece->read) {
        return {};
    }
    if (piece != order_.back().get()) {
        order_.splice(order_.end(), order_, piece->place);
    }
    return piece->bytes;
}

TableCache::Ref TableCache::make(std::uint64_t offset) {
    remove(offset);
    const std::shared_ptr<Piece> piece = put(offset);
    mark_dirty(piece);
    return Ref(piece);
}

void TableCache::forget(std::uint64_t offset, std::uint64_t size) {
    for (std::uint64_t done = 0; done < size; done += piece_size_) {
        remove(offset + done);
    }
}

std::vector<TableCache::Run> TableCache::take_dirty() {
    std::vector<Run> runs;
    for (const auto& [offset, piece] : std::exchange(dirty_, {})) {
        piece->dirty = false;
        if (runs.empty() || runs.back().offset + runs.back().bytes.size() != offset ||
            runs.back().bytes.size() + piece_size_ > kRunBytes) {
            runs.emplace_back().offset = offset;
        }
        Run& run = runs.back();
        run.bytes.insert(run.bytes.end(), piece->bytes.begin(), piece->bytes.end());
        run.pieces.push_back(piece);
    }
    return runs;
}

void TableCache::take_back(const Run& run) {
    for (const std::shared_ptr<Piece>& piece : run.pieces) {
        if (piece->cache != nullptr) {
            mark_dirty(piece);
        }
    }
}

Task<Status> TableCache::write_run(const Run& run) {
    const std::span<const std::byte> bytes = run.bytes;
    Status written = co_await file_.write(run.offset, bytes);
    if (!written) {
        take_back(run);
    }
    co_return written;
}

Task<Status> TableCache::write_runs(std::span<const Run> runs) {
    TaskGroup group(kWritesAtOnce);
    for (const Run& run : runs) {
        co_await group.add(write_run(run));
    }
    co_return co_await group.wait();
}

// The copies are made before the first wait: what others change from then on may refer to clusters
// whose counts are not on the disk yet.
Task<Status> TableCache::write_dirty() {
    const std::vector<Run> runs = take_dirty();
    const std::uint64_t failures = failures_;
    const Mutex::Guard guard = co_await writing_.lock();
    Status status;
    if (failures == failures_) {
        status = co_await write_runs(runs);
        if (!status) {
            ++failures_;
            last_failure_ = status;
        }
    } else {
        // A call before this one had pieces that this call counts on.
        status = last_failure_;
        for (const Run& run : runs) {
            take_back(run);
        }
    }
    co_return status;
}

}  // namespace snapvm::disk::qcow2
