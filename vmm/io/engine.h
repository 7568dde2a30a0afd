// SPDX-License-Identifier: Apache-2.0
// Executes system calls on files, many at a time: with io_uring, or with threads if io_uring is
// missing or forbidden, as in many containers.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "vmm/base/error.h"
#include "vmm/io/fault.h"

namespace snapvm::io {

/// `automatic` is io_uring, or threads if the kernel refuses io_uring. SNAPVM_IO=uring or
/// SNAPVM_IO=threads in the environment takes the place of `automatic`.
enum class EngineKind : std::uint8_t { automatic, uring, threads };

/// One system call. It and the memory behind `buffers` must stay where they are until it has ended.
struct Request {
    enum class Kind : std::uint8_t {
        read,
        write,
        flush,     ///< fdatasync
        allocate,  ///< fallocate
        discard,   ///< BLKDISCARD
    };
    Kind kind{};
    int fd = -1;
    std::uint64_t offset = 0;
    std::uint64_t size = 0;      ///< of a read or a write: the bytes of all buffers
    std::vector<iovec> buffers;
    int flags = 0;               ///< of preadv2 or pwritev2, or the mode of fallocate
};

/// A request that has ended.
struct Completion {
    Request* request = nullptr;
    /// What the system call returned, or its errno, negative. A read or a write may be short.
    std::int64_t result = 0;
};

/// Called by add() for each request, on the caller's thread.
using FaultHook = std::function<Fault(const Request& request)>;

struct EngineOptions {
    /// The most requests that one system call begins. More may be in flight.
    unsigned depth = 16;
    /// An eventfd of the caller's. It becomes readable if reap() or submit() has something to do.
    int event = -1;
    FaultHook hook = {};  ///< for tests
};

/// An engine. It has no lock: one thread at a time. Requests in flight have no order between them.
class Engine {
public:
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;
    /// Waits for the requests that have begun: until then the kernel reads and writes their memory.
    /// The others never begin.
    virtual ~Engine() = default;

    [[nodiscard]] virtual std::string_view name() const = 0;  ///< "io_uring" or "threads"

    /// Takes a request.
    void add(Request& request);
    /// Begins the requests that were added. If the kernel lacks memory for some, the event becomes
    /// readable, and the next submit() or wait() tries again. If the kernel refuses them for good,
    /// they end with EIO.
    virtual void submit() = 0;
    /// Begins the requests that were added. Waits until one has ended, if any is in flight. Fails
    /// if the kernel does not tell: then the results of the requests in flight are lost.
    Status wait();
    /// Returns the requests that have ended, each once. Does not wait. The result is valid until
    /// the next reap().
    std::span<const Completion> reap();

    /// Returns the number of requests that were added and that reap() has not returned yet.
    [[nodiscard]] std::size_t in_flight() const { return in_flight_; }

protected:
    explicit Engine(EngineOptions options) : event_(options.event), hook_(std::move(options.hook)) {}

    /// Queues a request for submit().
    virtual void queue(Request& request) = 0;
    /// Calls end() for the requests that have ended.
    virtual void collect() = 0;
    /// Waits until collect() finds a request that has ended, or end() was called for one.
    virtual Status await() = 0;

    /// Hands a request to reap().
    void end(Request& request, std::int64_t result) { ended_.push_back({&request, result}); }
    /// Makes the event readable. Any thread may call it.
    void wake() const;
    [[nodiscard]] bool has_ended() const { return !ended_.empty(); }
    [[nodiscard]] int event() const { return event_; }

private:
    int event_;
    FaultHook hook_;
    std::size_t in_flight_ = 0;
    std::vector<Completion> ended_;   ///< for the next reap()
    std::vector<Completion> reaped_;  ///< what the last reap() returned
};

/// Creates an engine. Fails if `uring` is wished, by the caller or by SNAPVM_IO, and the kernel
/// refuses it; with usage if SNAPVM_IO has another value.
Result<std::unique_ptr<Engine>> make_engine(EngineKind kind, EngineOptions options);

// The two engines.
Result<std::unique_ptr<Engine>> make_uring_engine(EngineOptions options);
Result<std::unique_ptr<Engine>> make_thread_engine(EngineOptions options, unsigned threads);

}  // namespace snapvm::io
