// SPDX-License-Identifier: Apache-2.0
#include "devices/disk/raw.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>

#include "vmm/base/try.h"

namespace snapvm {

RawDisk::RawDisk(DiskFile file, DiskOptions options) : file_(std::move(file)), options_(std::move(options)) {}

RawDisk::~RawDisk() = default;

std::uint32_t RawDisk::block_size() const { return std::clamp<std::uint32_t>(file_.block_size, 512, 4096); }

Status RawDisk::start() {
    event_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event_.valid()) {
        return fail(Error::system("eventfd", file_.name, errno, "raise the limit of open files (ulimit -n)"));
    }
    engine_ =
        TRY(io::make_engine(options_.engine, {.depth = kMaxInFlight, .event = event_.get(), .hook = options_.hook}));
    calls_.emplace(file_, *engine_, disk::FileCalls::AtEnd::fails, [this](Call& call, int error) { end(call, error); });
    pool_.resize(kMaxInFlight);
    for (Call& call : pool_) {
        free_.push_back(&call);
    }
    return {};
}

void RawDisk::add(DiskRequest& request) {
    Call& call = *free_.back();
    free_.pop_back();
    calls_->begin(call, request);
}

void RawDisk::submit() { engine_->submit(); }

void RawDisk::reap(const Ended& ended) {
    eventfd_t count = 0;
    (void)::eventfd_read(event_.get(), &count);
    reaping_ = true;
    for (const io::Completion& one : engine_->reap()) {
        disk::FileCalls::advance(one);
    }
    submit();
    std::vector<std::pair<Call*, int>> over;
    over.swap(ended_);
    reaping_ = false;
    for (const auto& [call, error] : over) {
        DiskRequest& request = call->request();
        free_.push_back(call);  // free before it is reported, because `ended` may add a request
        ended(request, error);
    }
}

void RawDisk::end(Call& call, int error) {
    ended_.emplace_back(&call, error);
    if (!reaping_) {
        (void)::eventfd_write(event_.get(), 1);
    }
}

}  // namespace snapvm
