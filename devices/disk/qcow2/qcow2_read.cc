// SPDX-License-Identifier: Apache-2.0
// Reads through a qcow2 image.
#include <algorithm>

#include "devices/disk/qcow2/compressed.h"
#include "devices/disk/qcow2/layer.h"

namespace snapvm::disk::qcow2 {
namespace {

constexpr std::size_t kTogether = 32;  // parts of one request

}  // namespace

Task<Status> Layer::read(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) {
    Status status = check_range(offset, size);
    CO_TRY(status);
    const CallTickets::Ticket ticket(calls_);
    const std::optional<Run> run = run_of_all(offset, size);
    if (run && run->kind == Run::Kind::data) {
        status = co_await file_->read(run->host, parts);
    } else {
        status = co_await read_range(offset, size, parts);
    }
    if (mapping_->damaged()) {
        co_await note_damage();
    }
    co_return status;
}

Image* Layer::passes_on(std::uint64_t offset, std::uint64_t size) {
    if (!backing_ || !is_within(offset, size) || offset + size > backing_->size()) {
        return nullptr;
    }
    const std::optional<Run> run = run_of_all(offset, size);
    return run && run->kind == Run::Kind::backing ? backing_.get() : nullptr;
}

// Returns the run of the range, if it is one and the tables in memory tell.
std::optional<Run> Layer::run_of_all(std::uint64_t offset, std::uint64_t size) {
    if (size == 0) {
        return std::nullopt;
    }
    std::optional<Run> run = mapping_->look_in_memory(offset, size);
    if (run && run->size != size) {
        run.reset();
    }
    return run;
}

Task<Status> Layer::read_range(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) {
    if (const std::optional<Run> run = run_of_all(offset, size)) {
        co_return co_await read_run(*run, offset, parts);
    }
    TaskGroup group(kTogether);
    std::vector<Parts> targets;  // their buffers stay where they are when the vector grows
    Status looked;
    for (std::uint64_t done = 0; done < size && looked && !group.failed();) {
        Result<Run> run = co_await mapping_->look(offset + done, size - done);
        if (!run) {
            looked = fail(std::move(run).error());
            break;
        }
        const Parts& target = targets.emplace_back(slice(parts, done, run->size));
        if (run->kind == Run::Kind::zero) {
            fill_zero(target);
        } else {
            co_await group.add(read_run(*run, offset + done, target));
        }
        done += run->size;
    }
    Status ended = co_await group.wait();
    CO_TRY(looked);
    co_return ended;
}

Task<Status> Layer::read_run(Run run, std::uint64_t offset, std::span<const iovec> parts) {
    switch (run.kind) {
        case Run::Kind::data: co_return co_await file_->read(run.host, parts);
        case Run::Kind::compressed: co_return co_await read_compressed(run, offset, parts);
        case Run::Kind::backing: co_return co_await read_backing(offset, run.size, parts);
        case Run::Kind::zero: break;
    }
    fill_zero(parts);
    co_return {};
}

Task<Status> Layer::read_backing(std::uint64_t offset, std::uint64_t size, std::span<const iovec> parts) {
    const std::uint64_t behind = backing_ ? backing_->size() : 0;
    const std::uint64_t there = offset < behind ? std::min(size, behind - offset) : 0;
    if (there == size) {
        co_return co_await holder_of(*backing_, offset, size).read(offset, size, parts);
    }
    fill_zero(slice(parts, there, size - there));
    if (there == 0) {
        co_return {};
    }
    const Parts first = slice(parts, 0, there);
    co_return co_await backing_->read(offset, there, std::span<const iovec>(first));
}

Task<Status> Layer::read_compressed(Run run, std::uint64_t offset, std::span<const iovec> parts) {
    const std::uint64_t cluster = offset >> header().cluster_bits;
    // Others that want the same cluster wait here, and then find it expanded.
    auto alone = co_await expanding_.lock(cluster, 1);
    Result<std::span<const std::byte>> bytes = co_await expanded(cluster, run);
    CO_TRY(bytes);
    copy_to(parts, bytes->subspan(offset % cluster_size(), run.size));
    co_return {};
}

// The result is valid until the caller waits.
Task<Result<std::span<const std::byte>>> Layer::expanded(std::uint64_t cluster, Run run) {
    for (const Expanded& one : expanded_) {
        if (one.cluster == cluster && one.offset == run.host) {
            co_return std::span<const std::byte>(one.bytes);
        }
    }
    auto turn = co_await expansions_.take();
    std::vector<std::byte> compressed(std::min(run.compressed_size, file_->size() - run.host));
    Status read = co_await file_->read(run.host, std::span<std::byte>(compressed));
    CO_TRY(read);
    std::vector<std::byte> bytes(cluster_size());
    Status status = expand(header().compression, compressed, bytes, name());
    CO_TRY(status);
    Expanded& place = expanded_[next_expanded_];
    next_expanded_ = (next_expanded_ + 1) % expanded_.size();
    place.cluster = cluster;
    place.offset = run.host;
    place.bytes = std::move(bytes);
    co_return std::span<const std::byte>(place.bytes);
}

}  // namespace snapvm::disk::qcow2
