// SPDX-License-Identifier: Apache-2.0
// Answers the page faults of a machine's memory that the kernel leaves to this process. The kernel
// allows one userfaultfd for a mapping, so all parts of the VMM that need one share this service.
// Sources: Documentation/admin-guide/mm/userfaultfd.rst, ioctl_userfaultfd(2).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string_view>
#include <thread>
#include <vector>

#include "vmm/base/counters.h"
#include "vmm/base/error.h"
#include "vmm/base/fd.h"
#include "vmm/memory/block.h"
#include "vmm/memory/fault_ranges.h"
#include "vmm/memory/userfaultfd.h"

namespace snapvm {

/// Pages [first, first + count) of a block. Blocks are numbered by their place in the block list.
struct PageRange {
    std::size_t block = 0;
    std::uint64_t first = 0;
    std::uint64_t count = 0;
};

/// A thread that waits for a page: a vCPU's (within KVM_RUN), a device's, or any other.
struct Fault {
    FaultKind kind{};
    std::size_t block = 0;
    std::uint64_t page = 0;
};

/// Answers the faults of one use, on the service's thread.
///
/// That thread is the only one, so both functions may compute, copy, read a file and call the
/// functions of FaultUse but `begin` and `end`. They wait for no other thread, except for a lock
/// that is only held for such work; what cannot be answered at once is answered later, by another
/// thread. They touch no guest memory that may be missing, and hold no lock under which another
/// thread touches some: the fault of that access would wait for the service's thread.
class FaultHandler {
public:
    virtual ~FaultHandler() = default;
    /// Returns whether the fault is this use's. It is answered then, or will be: the thread waits
    /// until the use has made the page what the thread waits for. Returns false to pass the fault
    /// on to the next use; an error ends the use. The same fault may come several times, and may
    /// have been answered since.
    virtual Result<bool> answer(const Fault& fault) = 0;
    /// The use ends because of `error`. Its threads still wait. After the return its pages are like
    /// those of any memory: not protected, and zeros if they are missing. A use whose missing pages
    /// must not become zeros ends the machine here. Called once at most, and no `answer` follows.
    virtual void failed(const Error& error) = 0;
};

/// What a use registers.
struct FaultUseSpec {
    /// Uses of a lower order come first: if several pages are waited for, theirs is answered first,
    /// and if several uses answer missing faults in one place, they are asked in this order.
    int order = 0;
    FaultKinds kinds;
    /// UFFD_FEATURE_* that the kernel must have. They are agreed on once, with the first use, so a
    /// use that stays for long also names kUffdProtectsUnpopulated if a later one will need it.
    std::uint64_t features = 0;
    std::vector<PageRange> ranges;
};

class FaultService;

/// One part of the VMM that answers faults: write protection; later lazy restore, swap, post-copy.
/// It does not move, and is destroyed before its handler. It may outlive the service, whose end
/// ends it; only `end` and the destructor may be called after that. `begin` and `end` are called by
/// one thread at a time and not by a handler, the others by any thread between them.
class FaultUse {
public:
    FaultUse(FaultService& service, FaultHandler& handler) : service_(service), handler_(handler) {}
    FaultUse(const FaultUse&) = delete;
    FaultUse& operator=(const FaultUse&) = delete;
    ~FaultUse() { end(); }

    /// Registers the ranges. `answer` may be called before it returns. The first use of a service
    /// opens the userfaultfd and starts the thread. Fails with invalid if a range is not within its
    /// block; with busy if another use protects pages there, or if the userfaultfd was opened
    /// without a feature that has to be switched on; with unsupported if the kernel lacks a
    /// feature; with system (userfaultfd, UFFDIO_REGISTER) if it refuses, or if there can be no
    /// more threads. After an error nothing is registered.
    Status begin(const FaultUseSpec& spec);
    /// Ends the use. Pages that it protects are protected no more, threads that wait for it go on,
    /// and its missing pages read as zeros. What other uses need stays registered, so their pages
    /// stay protected and missing. Waits until no handler runs; none of this use's runs after that.
    /// The last use closes the userfaultfd and ends the thread. Does nothing if the use has ended.
    void end();

    /// Holds every write to these pages from now on. Ranges of whole 2 MiB are the cheapest, and
    /// they do not split huge pages. Pages that are not populated are only protected if the
    /// userfaultfd has kUffdProtectsUnpopulated.
    Status protect(const PageRange& pages);
    /// Ends the protection of these pages and wakes the writers.
    Status release(const PageRange& pages);
    /// Populates missing pages with `data` and wakes the threads that wait for them. Leaves pages
    /// that are populated as they are. If a use protects pages in this place, the new pages are
    /// write-protected: a fault at the first write asks that use. `data` is no guest memory.
    Status fill(const PageRange& pages, std::span<const std::byte> data);
    /// Maps pages that are in the block's memfd, as the answer to minor faults; else like `fill`.
    Status map_present(const PageRange& pages);

private:
    friend class FaultService;
    struct Descriptors;

    FaultService& service_;
    FaultHandler& handler_;
    FaultUseSpec spec_;
    std::shared_ptr<Descriptors> descriptors_;  ///< keeps the userfaultfd open as long as it can be called
    std::atomic<bool> active_ = false;
};

/// The one userfaultfd of a machine's memory, the thread that answers its faults, and the uses.
/// Without a use it has no descriptor and no thread, and nothing is registered.
///
/// One thread answers one fault at a time. A fault waits for those that are being answered and for
/// those of a lower order, and for nothing else (FaultHandler). Nothing maps a registered page anew
/// while a use exists (MemoryBlock::replace, overlays), and a page that is discarded is a missing
/// page again.
///
/// It ends before the memory does. Any thread may call it.
class FaultService {
public:
    /// `blocks` outlive it and stay where they are.
    explicit FaultService(std::span<const MemoryBlock> blocks);
    FaultService(const FaultService&) = delete;
    FaultService& operator=(const FaultService&) = delete;
    ~FaultService() { end(); }

    /// Ends all uses, without a word to their handlers: no thread waits in a fault after that.
    /// `begin` fails with busy from now on.
    void end();
    [[nodiscard]] const Counters& counters() const { return counters_; }

private:
    friend class FaultUse;
    using Descriptors = FaultUse::Descriptors;

    Status begin(FaultUse& use);
    void end(FaultUse& use);
    Status check(const FaultUseSpec& spec) const;
    Status open(std::uint64_t features);
    Status enroll(FaultUse& use);
    void withdraw(FaultUse& use, std::span<const PageRange> registered);
    void close_if_unused(std::thread& ended);
    void serve(const std::shared_ptr<Descriptors>& descriptors);
    Result<bool> answer_some(const Descriptors& descriptors);
    void answer(const Fault& fault);
    void answer_by_default(const Fault& fault);
    void fail_use(FaultUse& use, const Error& error);
    [[nodiscard]] int order_of(const Fault& fault) const;
    [[nodiscard]] bool protects(const PageRange& pages) const;
    [[nodiscard]] std::span<std::byte> bytes(const PageRange& pages) const;
    [[nodiscard]] std::string_view name_of_block(std::size_t block) const;
    Status populate(const Descriptors& descriptors, const PageRange& pages, const std::span<const std::byte>* data);

    std::span<const MemoryBlock> blocks_;
    /// Held while a use begins or ends, and while a handler runs. Guards all members below.
    std::mutex mutex_;
    /// Held, too, while the list of uses changes, and shared while pages are populated: so a page
    /// that arrives while a use that protects begins is protected, or was there before.
    std::shared_mutex populating_;
    std::vector<FaultUse*> uses_;      ///< by order
    std::vector<FaultRanges> ranges_;  ///< by block
    std::shared_ptr<Descriptors> descriptors_;
    std::thread thread_;
    bool over_ = false;
    Counters counters_;
    Counter answered_{counters_, "answered"};
};

}  // namespace snapvm
