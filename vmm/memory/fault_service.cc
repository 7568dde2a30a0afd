// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/fault_service.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <utility>

#include "vmm/base/thread.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

// Features that change what the kernel does once they are agreed on. The others only say what it
// can do.
constexpr std::uint64_t kSwitches = kUffdProtectsUnpopulated;
constexpr std::size_t kMostAtOnce = 16;  // faults that one read(2) returns
alignas(kPageSize) constexpr std::array<std::byte, kPageSize> kZeros{};

bool overlap(const PageRange& a, const PageRange& b) {
    return a.block == b.block && a.first < b.first + b.count && b.first < a.first + a.count;
}

bool covers(const FaultUseSpec& spec, const PageRange& pages) {
    return std::ranges::any_of(spec.ranges, [&](const PageRange& range) { return overlap(range, pages); });
}

bool concerns(const FaultUseSpec& spec, const Fault& fault) {
    return spec.kinds.has(fault.kind) && covers(spec, {fault.block, fault.page, 1});
}

FaultKind kind_of(const uffd_msg& message) {
    if ((message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0) {
        return FaultKind::write_protect;
    }
    return (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR) != 0 ? FaultKind::minor : FaultKind::missing;
}

}  // namespace

/// What the first use opens and the last one closes.
struct FaultUse::Descriptors {
    UniqueFd userfaultfd;
    UniqueFd stop;  ///< eventfd that ends the thread
    std::uint64_t kernel_features = 0;
    std::uint64_t agreed_features = 0;
};

Status FaultUse::begin(const FaultUseSpec& spec) {
    end();
    spec_ = spec;
    return service_.begin(*this);
}

void FaultUse::end() {
    if (active_) {
        service_.end(*this);
    }
    descriptors_.reset();
}

Status FaultUse::protect(const PageRange& pages) {
    return protect_pages(descriptors_->userfaultfd, service_.bytes(pages), true, service_.name_of_block(pages.block));
}

Status FaultUse::release(const PageRange& pages) {
    return protect_pages(descriptors_->userfaultfd, service_.bytes(pages), false, service_.name_of_block(pages.block));
}

Status FaultUse::fill(const PageRange& pages, std::span<const std::byte> data) {
    return service_.populate(*descriptors_, pages, &data);
}

Status FaultUse::map_present(const PageRange& pages) { return service_.populate(*descriptors_, pages, nullptr); }

FaultService::FaultService(std::span<const MemoryBlock> blocks) : blocks_(blocks), ranges_(blocks.size()) {}

std::span<std::byte> FaultService::bytes(const PageRange& pages) const {
    return blocks_[pages.block].bytes().subspan(pages.first * kPageSize, pages.count * kPageSize);
}

std::string_view FaultService::name_of_block(std::size_t block) const { return name_of(blocks_[block].spec().id); }

// `mutex_` or `populating_` must be held.
bool FaultService::protects(const PageRange& pages) const {
    return std::ranges::any_of(uses_, [&](const FaultUse* use) {
        return use->spec_.kinds.has(FaultKind::write_protect) && covers(use->spec_, pages);
    });
}

// Copies `data` into the missing pages, or maps those of the memfd if there is none. Pages are
// taken as they are registered: the kernel protects none that is not registered for it.
Status FaultService::populate(const Descriptors& descriptors, const PageRange& pages,
                              const std::span<const std::byte>* data) {
    const std::shared_lock lock(populating_);
    const std::string_view name = name_of_block(pages.block);
    for (const auto& piece : ranges_[pages.block].pieces(pages.first, pages.count)) {
        const PageRange part{pages.block, piece.first, piece.count};
        if (data == nullptr) {
            TRY(map_present_pages(descriptors.userfaultfd, bytes(part), protects(part), name));
        } else {
            const auto from = data->subspan((piece.first - pages.first) * kPageSize, piece.count * kPageSize);
            TRY(copy_pages(descriptors.userfaultfd, bytes(part), from, protects(part), name));
        }
    }
    return {};
}

Status FaultService::begin(FaultUse& use) {
    const std::lock_guard lock(mutex_);
    if (over_) {
        return fail(ErrorKind::busy, "the machine's memory is going away");
    }
    if (!descriptors_ && thread_.joinable()) {
        thread_.join();  // its last use has failed, and it takes no lock any more
    }
    const bool first = descriptors_ == nullptr;
    TRY(check(use.spec_));
    if (first) {
        TRY(open(use.spec_.features));
    }
    Status begun = enroll(use);
    if (begun && first) {
        auto thread = start_thread(ThreadRole::faults, [this, descriptors = descriptors_] { serve(descriptors); });
        if (thread) {
            thread_ = *std::move(thread);
        } else {
            withdraw(use, use.spec_.ranges);
            begun = fail(std::move(thread).error());
        }
    }
    if (!begun) {
        descriptors_ = first ? nullptr : descriptors_;
        return begun;
    }
    use.descriptors_ = descriptors_;
    use.active_ = true;
    return {};
}

Status FaultService::check(const FaultUseSpec& spec) const {
    for (const PageRange& range : spec.ranges) {
        if (range.block >= blocks_.size() || range.count == 0 || range.first > blocks_[range.block].spec().pages() ||
            range.count > blocks_[range.block].spec().pages() - range.first) {
            return fail(ErrorKind::invalid, "pages to register for faults outside of memory");
        }
        if (spec.kinds.has(FaultKind::write_protect) && protects(range)) {
            return fail(ErrorKind::busy, "pages of block " + std::string(name_of_block(range.block)) +
                                             " are being protected for another use");
        }
    }
    if (descriptors_ && (spec.features & ~descriptors_->kernel_features) != 0) {
        return fail(ErrorKind::unsupported, Error::system("UFFDIO_API", "", EINVAL).what());
    }
    if (descriptors_ && (spec.features & kSwitches & ~descriptors_->agreed_features) != 0) {
        return fail(ErrorKind::busy, "the machine's userfaultfd was opened without a feature that is needed now");
    }
    return {};
}

Status FaultService::open(std::uint64_t features) {
    Userfaultfd opened = TRY(open_userfaultfd());
    const auto kernel_features = agree_on_features(opened.fd, features);
    if (!kernel_features) {
        return fail(ErrorKind::unsupported, kernel_features.error().what());
    }
    UniqueFd stop(::eventfd(0, EFD_CLOEXEC));
    if (!stop.valid()) {
        return fail(Error::system("eventfd", "userfaultfd", errno));
    }
    descriptors_ = std::make_shared<Descriptors>(std::move(opened.fd), std::move(stop), *kernel_features, features);
    return {};
}

// Registers what is not registered yet, and adds the use to the list.
Status FaultService::enroll(FaultUse& use) {
    std::vector<PageRange> done;
    Status registered;
    {
        const std::lock_guard lock(populating_);
        for (const PageRange& range : use.spec_.ranges) {
            const std::string object = "of block " + std::string(name_of_block(range.block));
            for (const auto& piece : ranges_[range.block].pieces(range.first, range.count)) {
                const FaultKinds kinds = piece.kinds | use.spec_.kinds;
                const PageRange pages{range.block, piece.first, piece.count};
                if (registered && kinds != piece.kinds) {
                    registered = register_faults(descriptors_->userfaultfd, bytes(pages), kinds, object);
                }
                if (registered) {
                    ranges_[range.block].add(piece.first, piece.count, use.spec_.kinds);
                    done.push_back(pages);
                }
            }
        }
        if (registered) {
            uses_.insert(std::ranges::upper_bound(uses_, use.spec_.order, {},
                                                  [](const FaultUse* other) { return other->spec_.order; }),
                         &use);
        }
    }
    if (!registered) {
        withdraw(use, done);
    }
    return registered;
}

// Takes the use from the list and unregisters what no other use needs. Nothing here can fail but
// for memory that is no longer mapped, where no thread can wait.
void FaultService::withdraw(FaultUse& use, std::span<const PageRange> registered) {
    const std::lock_guard lock(populating_);
    std::erase(uses_, &use);
    const UniqueFd& userfaultfd = descriptors_->userfaultfd;
    for (const PageRange& range : registered) {
        const std::string_view name = name_of_block(range.block);
        ranges_[range.block].remove(range.first, range.count);
        for (const auto& piece : ranges_[range.block].pieces(range.first, range.count)) {
            const std::span<std::byte> pages = bytes({range.block, piece.first, piece.count});
            if (piece.uses == 0) {
                (void)unregister_faults(userfaultfd, pages, name);
            } else if (use.spec_.kinds.has(FaultKind::write_protect)) {
                (void)protect_pages(userfaultfd, pages, false, name);
            }
        }
        // An unregister alone wakes only those that wait for missing pages. A thread that waits for
        // another use comes back with its fault.
        (void)wake_faults(userfaultfd, bytes(range), name);
    }
}

// Closes the userfaultfd if no use is left. The caller joins `ended`, without `mutex_`.
void FaultService::close_if_unused(std::thread& ended) {
    if (!uses_.empty()) {
        return;
    }
    if (descriptors_) {
        (void)::eventfd_write(descriptors_->stop.get(), 1);
        descriptors_.reset();
    }
    ended = std::move(thread_);
}

void FaultService::end(FaultUse& use) {
    std::thread ended;
    {
        const std::lock_guard lock(mutex_);
        if (!use.active_) {
            return;  // it has failed meanwhile
        }
        withdraw(use, use.spec_.ranges);
        use.active_ = false;
        close_if_unused(ended);
    }
    if (ended.joinable()) {
        ended.join();
    }
}

void FaultService::end() {
    std::thread ended;
    {
        const std::lock_guard lock(mutex_);
        over_ = true;
        while (!uses_.empty()) {
            FaultUse& use = *uses_.back();
            withdraw(use, use.spec_.ranges);
            use.active_ = false;
        }
        close_if_unused(ended);
    }
    if (ended.joinable()) {
        ended.join();
    }
}

// The thread. It returns without `mutex_` once the descriptors are no longer the service's.
void FaultService::serve(const std::shared_ptr<Descriptors>& descriptors) {
    while (true) {
        const Result<bool> more = answer_some(*descriptors);
        if (more && *more) {
            continue;
        }
        if (!more) {
            const std::lock_guard lock(mutex_);
            while (descriptors_ == descriptors && !uses_.empty()) {
                fail_use(*uses_.back(), more.error());
            }
        }
        return;
    }
}

// Waits for faults and answers those that it reads, in the order of the uses. Returns false when
// the thread is to end.
Result<bool> FaultService::answer_some(const Descriptors& descriptors) {
    std::array<pollfd, 2> ready{{{descriptors.userfaultfd.get(), POLLIN, 0}, {descriptors.stop.get(), POLLIN, 0}}};
    if (::poll(ready.data(), ready.size(), -1) < 0) {
        return errno == EINTR ? Result<bool>(true) : fail(Error::system("poll", "userfaultfd", errno));
    }
    if ((ready[1].revents & POLLIN) != 0) {
        return false;
    }
    std::array<uffd_msg, kMostAtOnce> messages;
    const ssize_t got = ::read(descriptors.userfaultfd.get(), messages.data(), sizeof messages);
    if (got < 0) {
        return errno == EAGAIN || errno == EINTR ? Result<bool>(true)
                                                 : fail(Error::system("read", "userfaultfd", errno));
    }
    const std::lock_guard lock(mutex_);
    std::vector<std::pair<int, Fault>> faults;
    for (const uffd_msg& message : std::span(messages).first(static_cast<std::size_t>(got) / sizeof(uffd_msg))) {
        for (std::size_t block = 0; message.event == UFFD_EVENT_PAGEFAULT && block < blocks_.size(); ++block) {
            const std::uint64_t offset =
                message.arg.pagefault.address - reinterpret_cast<std::uintptr_t>(blocks_[block].host());
            if (offset < blocks_[block].spec().size) {
                const Fault fault{kind_of(message), block, offset / kPageSize};
                faults.emplace_back(order_of(fault), fault);
            }
        }
    }
    std::ranges::stable_sort(faults, {}, &std::pair<int, Fault>::first);
    for (const auto& [order, fault] : faults) {
        // The threads of a userfaultfd that is closed, or whose last use has failed, are awake.
        if (descriptors_.get() != &descriptors) {
            return false;
        }
        answer(fault);
    }
    return descriptors_.get() == &descriptors;
}

int FaultService::order_of(const Fault& fault) const {
    const auto use = std::ranges::find_if(uses_, [&](const FaultUse* other) { return concerns(other->spec_, fault); });
    return use == uses_.end() ? 0 : (*use)->spec_.order;
}

void FaultService::answer(const Fault& fault) {
    ++answered_;
    for (FaultUse* use : uses_) {
        if (!concerns(use->spec_, fault)) {
            continue;
        }
        const Result<bool> taken = use->handler_.answer(fault);
        if (!taken) {
            fail_use(*use, taken.error());
            return;
        }
        if (*taken) {
            return;
        }
    }
    answer_by_default(fault);
}

// Does what the kernel would do without a registration. A range keeps the kinds of a use that has
// ended as long as another use needs it, so there are faults that no use asked for.
void FaultService::answer_by_default(const Fault& fault) {
    const PageRange page{fault.block, fault.page, 1};
    const std::span<const std::byte> zeros = kZeros;
    Status answered;
    switch (fault.kind) {
        case FaultKind::missing: answered = populate(*descriptors_, page, &zeros); break;
        case FaultKind::minor: answered = populate(*descriptors_, page, nullptr); break;
        case FaultKind::write_protect:
            answered = protect_pages(descriptors_->userfaultfd, bytes(page), false, name_of_block(fault.block));
            break;
    }
    if (!answered) {
        // The page is not registered any more: its use has ended since.
        (void)wake_faults(descriptors_->userfaultfd, bytes(page), name_of_block(fault.block));
    }
}

// On the service's thread, which ends with its last use and is joined by the next begin() or end().
void FaultService::fail_use(FaultUse& use, const Error& error) {
    use.handler_.failed(error);
    withdraw(use, use.spec_.ranges);
    if (uses_.empty()) {
        descriptors_.reset();
    }
    use.active_ = false;  // from here on its owner may destroy it
}

}  // namespace snapvm
