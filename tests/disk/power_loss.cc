// SPDX-License-Identifier: Apache-2.0
#include "tests/disk/power_loss.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <span>

#include "tests/support/need.h"

namespace snapvm::disk::test {
namespace {

constexpr std::uint64_t kSector = 512;

std::uint64_t size_of(int fd) {
    struct stat info{};
    return ::fstat(fd, &info) == 0 ? static_cast<std::uint64_t>(info.st_size) : 0;
}

std::vector<std::byte> bytes_of(const io::Request& request) {
    std::vector<std::byte> bytes;
    for (const iovec& part : request.buffers) {
        const auto* const from = static_cast<const std::byte*>(part.iov_base);
        bytes.insert(bytes.end(), from, from + part.iov_len);
    }
    return bytes;
}

// Calls visit(offset in the bytes, size) for each sector of a write at `offset`.
template <class Visit>
void for_each_sector(std::uint64_t offset, std::size_t size, Visit visit) {
    for (std::size_t at = 0; at < size;) {
        const std::size_t part = std::min<std::size_t>(size - at, kSector - (offset + at) % kSector);
        visit(at, part);
        at += part;
    }
}

void put(std::vector<std::byte>& file, std::uint64_t offset, std::span<const std::byte> bytes) {
    if (file.size() < offset + bytes.size()) {
        file.resize(offset + bytes.size());
    }
    std::ranges::copy(bytes, file.begin() + static_cast<std::ptrdiff_t>(offset));
}

}  // namespace

PowerLoss::PowerLoss(const std::string& path) : file_(snapvm::test::need(open_file(path, O_RDONLY))) {
    size_ = size_of(file_.get());
    begin_ = read(0, size_);
}

std::vector<std::byte> PowerLoss::read(std::uint64_t offset, std::size_t size) const {
    std::vector<std::byte> bytes(size);
    std::size_t done = 0;
    while (done < size) {
        const ssize_t got = ::pread(file_.get(), bytes.data() + done, size - done, static_cast<off_t>(offset + done));
        if (got <= 0) {
            break;  // zeros follow
        }
        done += static_cast<std::size_t>(got);
    }
    return bytes;
}

// A change of the size that no write explains was made by a call that no hook sees.
void PowerLoss::note_size() {
    if (const std::uint64_t now = size_of(file_.get()); now > size_) {
        size_ = now;
        calls_.push_back({.kind = Kind::resize, .offset = now, .bytes = {}, .step = step_});
    }
}

void PowerLoss::add(const io::Request& request) {
    using Asked = io::Request::Kind;
    note_size();
    switch (request.kind) {
        case Asked::read:
        case Asked::discard: break;
        case Asked::write:
            calls_.push_back(
                {.kind = Kind::write, .offset = request.offset, .bytes = bytes_of(request), .step = step_});
            size_ = std::max(size_, request.offset + calls_.back().bytes.size());
            break;
        case Asked::allocate: {
            // Punched or zeroed: both read as zeros. Neither extends the file.
            const std::uint64_t end = std::min(size_, request.offset + request.size);
            if (request.offset < end) {
                calls_.push_back({.kind = Kind::write,
                                  .offset = request.offset,
                                  .bytes = std::vector<std::byte>(end - request.offset),
                                  .step = step_});
            }
            break;
        }
        case Asked::flush:
            cover();
            calls_.push_back({.kind = Kind::flush, .offset = 0, .bytes = {}, .step = step_});
            break;
    }
}

// Whether the file has the bytes of a write, or of one after it at the same place.
bool PowerLoss::is_done(const Call& call, std::size_t at,
                        const std::map<std::uint64_t, std::vector<std::size_t>>& writes) const {
    const std::vector<std::byte> now = read(call.offset, call.bytes.size());
    bool done = true;
    for_each_sector(call.offset, call.bytes.size(), [&](std::size_t part, std::size_t size) {
        const std::uint64_t from = call.offset + part;
        const auto& here = writes.at(from / kSector);
        done = done && std::ranges::any_of(here, [&](std::size_t one) {
                   const Call& other = calls_[one];
                   return one >= at && other.offset <= from && from + size <= other.offset + other.bytes.size() &&
                          std::memcmp(now.data() + part, other.bytes.data() + (from - other.offset), size) == 0;
               });
    });
    return done;
}

// A flush covers the writes that have been done by now. Those still under way it may miss.
void PowerLoss::cover() {
    std::map<std::uint64_t, std::vector<std::size_t>> writes;  // by sector
    for (std::size_t i = 0; i < calls_.size(); ++i) {
        if (calls_[i].kind == Kind::write && calls_[i].covered_by == kNever) {
            for_each_sector(calls_[i].offset, calls_[i].bytes.size(), [&](std::size_t part, std::size_t) {
                writes[(calls_[i].offset + part) / kSector].push_back(i);
            });
        }
    }
    for (std::size_t i = 0; i < calls_.size(); ++i) {
        Call& call = calls_[i];
        if (call.covered_by == kNever &&
            (call.kind == Kind::resize || (call.kind == Kind::write && is_done(call, i, writes)))) {
            call.covered_by = calls_.size();
        }
    }
}

void PowerLoss::build(std::size_t point, std::mt19937_64& random, const std::string& path) const {
    // A flush of the same step as the last call may not have ended.
    const std::uint64_t now = point == 0 ? 0 : calls_[point - 1].step;
    std::size_t flushed = 0;  // calls that a flush before this one covers are durable
    for (std::size_t i = 0; i < point; ++i) {
        if (calls_[i].kind == Kind::flush && (calls_[i].step < now || random() % 2 == 0)) {
            flushed = i + 1;
        }
    }
    constexpr std::array<unsigned, 5> kChances = {0, 10, 50, 90, 100};
    const unsigned chance = kChances[random() % kChances.size()];
    const bool torn = random() % 2 == 0;  // by sectors, and otherwise by whole calls
    const auto lucky = [&] { return random() % 100 < chance; };
    std::vector<std::byte> file = begin_;
    for (std::size_t i = 0; i < point; ++i) {
        const Call& call = calls_[i];
        const bool durable = call.covered_by < flushed;
        const bool whole = durable || (!torn && lucky());
        if (call.kind == Kind::resize && (durable || lucky())) {
            file.resize(std::max<std::size_t>(file.size(), call.offset));
        } else if (call.kind == Kind::write) {
            for_each_sector(call.offset, call.bytes.size(), [&](std::size_t part, std::size_t size) {
                if (whole || (torn && lucky())) {
                    put(file, call.offset + part, std::span(call.bytes).subspan(part, size));
                }
            });
        }
    }
    const UniqueFd out = snapvm::test::need(open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    snapvm::test::need(write_all_at(out.get(), file, 0, path));
}

std::size_t test_points(std::size_t usual) {
    const char* const wanted = std::getenv("SNAPVM_TEST_POINTS");
    return wanted == nullptr ? usual : std::stoul(wanted);
}

}  // namespace snapvm::disk::test
