// SPDX-License-Identifier: Apache-2.0
// A block device with a driver, and a disk in memory that completes its requests when the test
// tells it to.
#pragma once

#include <sys/eventfd.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "devices/virtio/blk/blk.h"
#include "devices/virtio/mmio/mmio.h"
#include "tests/conformance/fake_host.h"
#include "tests/support/virtio_driver.h"

namespace snapvm::test {

class FakeDisk final : public Disk {
public:
    explicit FakeDisk(std::uint64_t size, bool is_read_only = false) : bytes(size), only_read(is_read_only) {}

    [[nodiscard]] std::uint64_t size() const override { return bytes.size(); }
    [[nodiscard]] std::uint32_t block_size() const override { return 512; }
    [[nodiscard]] bool read_only() const override { return only_read; }
    [[nodiscard]] const std::string& name() const override { return name_; }
    [[nodiscard]] bool has_tables() const override { return tables; }
    Status resize(std::optional<std::uint64_t> size) override {
        if (only_read) {
            return fail(ErrorKind::usage, name_ + " is read-only");
        }
        bytes.resize(size.value_or(bytes.size()));
        return {};
    }
    Status start() override { return {}; }
    [[nodiscard]] int event() const override { return event_.get(); }
    void add(DiskRequest& request) override {
        const std::lock_guard lock(mutex_);
        waiting.push_back(&request);
    }
    void submit() override {
        ++submits;
        if (at_once) {
            finish_all();
        }
    }
    void reap(const Ended& ended) override {
        eventfd_t count = 0;
        (void)::eventfd_read(event_.get(), &count);
        std::vector<std::pair<DiskRequest*, int>> done;
        {
            const std::lock_guard lock(mutex_);
            done.swap(done_);
        }
        for (const auto& [request, error] : done) {
            ended(*request, error);
        }
    }
    [[nodiscard]] std::size_t in_flight() {
        const std::lock_guard lock(mutex_);
        return waiting.size();
    }
    /// Carries out the oldest request. With `error` the request fails instead.
    void finish_one(int error = 0) {
        const std::lock_guard lock(mutex_);
        DiskRequest& request = *waiting.front();
        waiting.pop_front();
        std::byte* at = bytes.data() + request.offset;
        if (error == 0 &&
            (request.kind == DiskRequest::Kind::discard || request.kind == DiskRequest::Kind::write_zeroes)) {
            std::memset(at, 0, request.size);
        }
        for (const iovec& part : request.buffers) {
            if (error == 0 && request.kind == DiskRequest::Kind::read) {
                std::memcpy(part.iov_base, at, part.iov_len);
            } else if (error == 0 && request.kind == DiskRequest::Kind::write) {
                std::memcpy(at, part.iov_base, part.iov_len);
            }
            at += part.iov_len;
        }
        done_.emplace_back(&request, error);
        (void)::eventfd_write(event_.get(), 1);
    }
    void finish_all() {
        while (in_flight() > 0) {
            finish_one();
        }
    }

    std::vector<std::byte> bytes;
    bool only_read;
    bool tables = false;   ///< has_tables()
    bool at_once = false;  ///< requests complete when they are submitted
    int submits = 0;
    std::deque<DiskRequest*> waiting;  ///< the oldest first

private:
    std::string name_ = "disk fake";
    UniqueFd event_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    std::mutex mutex_;  // guards `waiting` and `done_` if the event loop has a thread
    std::vector<std::pair<DiskRequest*, int>> done_;
};

/// A block device with its driver. The host's 1 MiB of memory holds the queue, headers and status
/// bytes, then data.
struct BlkRig {
    static constexpr Gpa kQueue{0x1000};
    static constexpr Gpa kHeaders{0x8000};
    static constexpr Gpa kStatus{0xC000};
    static constexpr Gpa kData{0x10000};
    static constexpr std::uint64_t kAllFeatures = ~0ULL;
    static constexpr std::uint64_t kEventIndex = 1ULL << 29;

    static virtio::Place place() { return {RecordKind::virtio_blk, 0, Gpa{0xD0000000}, 5}; }
    explicit BlkRig(std::unique_ptr<Disk> disk, std::uint64_t features = kAllFeatures & ~kEventIndex,
                    std::uint16_t queue_size = 256, WriteErrors write_errors = WriteErrors::report)
        : queue(host.memory, kQueue, queue_size) {
        virtio::Blk::Stopped stopped;
        if (write_errors == WriteErrors::stop) {
            stopped = [this](const Error& why) { host.request_pause(why); };
        }
        blk = *virtio::Mmio::build(host.host(), place(),
                                   std::make_unique<virtio::Blk>("root", std::move(disk), std::move(stopped)));
        connect(features);
    }
    void connect(std::uint64_t features) {
        driver.emplace(*blk);
        if (!driver->negotiate(features)) {
            std::abort();
        }
        queue = DriverQueue(host.memory, kQueue, queue.size());
        std::memset(host.memory.span(kQueue, queue.end() - kQueue)->data(), 0, queue.end() - kQueue);
        driver->set_queue(0, queue);
        driver->start();
        run();
        (void)driver->acknowledge();
    }
    void run() {
        while (host.loop->run_pending()) {
        }
    }
    /// Writes header `index`, and 0xEE into its status byte.
    void put_header(unsigned index, std::uint32_t type, std::uint64_t sector) {
        queue.store(kHeaders + 16ULL * index, type);
        queue.store(kHeaders + 16ULL * index + 4, 0U);
        queue.store(kHeaders + 16ULL * index + 8, sector);
        queue.store(kStatus + index, std::uint8_t{0xEE});
    }
    /// Makes a request available without a notification.
    void add(unsigned index, std::uint32_t type, std::uint64_t sector, std::vector<DriverQueue::Buffer> data = {}) {
        put_header(index, type, sector);
        std::vector<DriverQueue::Buffer> chain = {{kHeaders + 16ULL * index, 16, false}};
        chain.insert(chain.end(), data.begin(), data.end());
        chain.push_back({kStatus + index, 1, true});
        queue.add(chain);
    }
    /// Does what the machine's resume does.
    void go_on() {
        blk->locked([this] { static_cast<virtio::Blk&>(blk->device()).go_on(); });
        run();
    }
    void notify() {
        driver->notify(0);
        run();
    }
    [[nodiscard]] int status(unsigned index) const { return queue.load<std::uint8_t>(kStatus + index); }
    /// Makes one request and waits until it is complete; the disk has to complete it by itself.
    /// Returns its status.
    int request(std::uint32_t type, std::uint64_t sector, std::vector<DriverQueue::Buffer> data = {}) {
        add(0, type, sector, std::move(data));
        driver->notify(0);
        // EventLoop::wait() does not fit here: asking for the status takes the device's lock.
        while (queue.used_index() != static_cast<std::uint16_t>(taken + 1) && !driver->needs_reset()) {
            (void)host.loop->run_pending();
        }
        used = queue.take();
        ++taken;
        return status(0);
    }

    FakeHost host;
    std::unique_ptr<virtio::Mmio> blk;
    DriverQueue queue;
    std::optional<MmioDriver> driver;
    std::optional<DriverQueue::Used> used;
    std::uint16_t taken = 0;
};

}  // namespace snapvm::test
