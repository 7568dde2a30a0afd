// SPDX-License-Identifier: Apache-2.0
// Coroutines on one thread: code that waits for a file is written as if it did not wait.
//
// A Task runs when it is awaited, and ends with co_return. It never throws; what may fail returns a
// Status or a Result:
//
//     Task<Status> copy(DiskIo& file) {
//         std::vector<std::byte> bytes(4096);
//         Status read = co_await file.read(0, std::span(bytes));
//         CO_TRY(read);
//         co_return co_await file.write(8192, std::span(bytes));
//     }
//
// Parameters that are references must outlive the task. With GCC 12 an operand of co_await must not
// make an aggregate with braces: it destroys such a temporary twice (GCC bug 98401 and others).
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdlib>
#include <optional>
#include <type_traits>
#include <utility>

#include "devices/disk/io/frame_pool.h"
#include "vmm/base/error.h"

/// Ends the task with the error of a Status, or of a Result whose value is not needed.
#define CO_TRY(expression)                                                     \
    if (const auto& co_try_result = (expression); !co_try_result) [[unlikely]] \
    co_return ::snapvm::fail(::snapvm::Error(co_try_result.error()))

namespace snapvm::disk {

template <class T = void>
class Task;

namespace detail {

/// Where a task is, as seen from the one that awaits it.
class PromiseBase : public PooledFrame {
public:
    // NOLINTBEGIN(readability-convert-member-functions-to-static): the language's interface
    std::suspend_always initial_suspend() noexcept { return {}; }
    // NOLINTEND(readability-convert-member-functions-to-static)
    struct Final {
        [[nodiscard]] bool await_ready() const noexcept { return false; }
        template <class Promise>
        void await_suspend(std::coroutine_handle<Promise> ended) const noexcept {
            // The last use of this frame: the awaiting task may destroy it.
            if (const auto next = ended.promise().awaiting_) {
                next.resume();
            }
        }
        void await_resume() const noexcept {}
    };
    Final final_suspend() noexcept { return {}; }
    void unhandled_exception() noexcept { std::abort(); }
    void set_awaiting(std::coroutine_handle<> awaiting) { awaiting_ = awaiting; }

private:
    std::coroutine_handle<> awaiting_;
};

template <class T>
class Promise : public PromiseBase {
public:
    Task<T> get_return_object() noexcept;
    template <class Value = T>
    void return_value(Value&& value) {
        value_.emplace(std::forward<Value>(value));
    }
    T take() { return *std::move(value_); }

private:
    std::optional<T> value_;
};

template <>
class Promise<void> : public PromiseBase {
public:
    Task<void> get_return_object() noexcept;
    void return_void() noexcept {}
    void take() noexcept {}
};

}  // namespace detail

/// Work that has not ended. It belongs to the task that awaits it; destroying it before it has
/// ended is an error, except if it has never been awaited.
template <class T>
class [[nodiscard]] Task {
public:
    using promise_type = detail::Promise<T>;
    explicit Task(std::coroutine_handle<promise_type> frame) : frame_(frame) {}
    Task(Task&& other) noexcept : frame_(std::exchange(other.frame_, nullptr)) {}
    Task& operator=(Task&&) = delete;
    ~Task() {
        if (frame_) {
            frame_.destroy();
        }
    }

    [[nodiscard]] bool await_ready() const noexcept { return false; }
    /// Runs the task until it waits for something. If it has ended by then, the awaiting one goes
    /// on without having been suspended, so that a loop of such tasks needs no stack.
    bool await_suspend(std::coroutine_handle<> awaiting) {
        frame_.resume();
        if (frame_.done()) {
            return false;
        }
        frame_.promise().set_awaiting(awaiting);
        return true;
    }
    T await_resume() { return frame_.promise().take(); }

private:
    std::coroutine_handle<promise_type> frame_;
};

namespace detail {

template <class T>
Task<T> Promise<T>::get_return_object() noexcept {
    return Task<T>(std::coroutine_handle<Promise<T>>::from_promise(*this));
}
inline Task<void> Promise<void>::get_return_object() noexcept {
    return Task<void>(std::coroutine_handle<Promise<void>>::from_promise(*this));
}

/// A coroutine that no other one awaits. It runs at once, and destroys itself at its end.
struct Detached {
    struct promise_type : PooledFrame {
        Detached get_return_object() noexcept { return {}; }
        std::suspend_never initial_suspend() noexcept { return {}; }
        std::suspend_never final_suspend() noexcept { return {}; }
        void return_void() noexcept {}
        void unhandled_exception() noexcept { std::abort(); }
    };
};

template <class T, class Then>
Detached run_detached(Task<T> task, Then then) {
    if constexpr (std::is_void_v<T>) {
        co_await task;
        then();
    } else {
        T value = co_await task;
        then(std::move(value));
    }
}

}  // namespace detail

/// Runs a task. Calls then(result) when it has ended, which may be before this returns.
template <class T, class Then>
void start(Task<T> task, Then then) {
    detail::run_detached(std::move(task), std::move(then));
}

/// Tasks that wait for something of the caller's. First come, first served.
class WaitList {
public:
    WaitList() = default;
    WaitList(const WaitList&) = delete;
    WaitList& operator=(const WaitList&) = delete;

    /// What a task awaits. It is in that task's frame, so the list needs no memory of its own.
    class [[nodiscard]] Waiting {
    public:
        explicit Waiting(WaitList& list) : list_(list) {}
        Waiting(const Waiting&) = delete;
        Waiting& operator=(const Waiting&) = delete;
        ~Waiting() = default;
        [[nodiscard]] bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> task) {
            task_ = task;
            *list_.end_ = this;
            list_.end_ = &next_;
        }
        void await_resume() const noexcept {}

    private:
        friend class WaitList;
        WaitList& list_;
        std::coroutine_handle<> task_;
        Waiting* next_ = nullptr;
    };
    /// Suspends the task that awaits it until it is woken.
    Waiting wait() { return Waiting(*this); }
    [[nodiscard]] bool empty() const { return first_ == nullptr; }
    /// Runs the first waiting task until it waits for something else. Returns false if there is
    /// none.
    bool wake_one() {
        if (empty()) {
            return false;
        }
        const Waiting& first = *first_;
        first_ = first.next_;
        if (empty()) {
            end_ = &first_;
        }
        first.task_.resume();
        return true;
    }
    /// Runs each task that waits now. One that waits again is not woken again.
    void wake_all() {
        const Waiting* one = std::exchange(first_, nullptr);
        end_ = &first_;
        while (one != nullptr) {
            const Waiting* next = one->next_;  // `one` is gone when its task goes on
            one->task_.resume();
            one = next;
        }
    }

private:
    Waiting* first_ = nullptr;
    Waiting** end_ = &first_;  ///< where the next one goes
};

/// Lets a number of tasks at a time through. The task that leaves runs the next one until that
/// waits, so the semaphore must outlive every task that it has let through.
class Semaphore {
public:
    class [[nodiscard]] Guard {
    public:
        explicit Guard(Semaphore& semaphore) : semaphore_(&semaphore) {}
        Guard(Guard&& other) noexcept : semaphore_(std::exchange(other.semaphore_, nullptr)) {}
        Guard& operator=(Guard&&) = delete;
        ~Guard() {
            if (semaphore_ != nullptr) {
                semaphore_->leave();
            }
        }

    private:
        Semaphore* semaphore_;
    };
    explicit Semaphore(std::size_t places) : places_(places) {}
    Task<Guard> take() {
        while (places_ == 0) {
            co_await waiting_.wait();
        }
        --places_;
        co_return Guard(*this);
    }

private:
    // A task that is woken here may leave before this returns. The next one is then woken by this
    // call and not by that one, so that a long queue needs no stack.
    void leave() {
        ++places_;
        if (std::exchange(waking_, true)) {
            return;
        }
        while (places_ > 0 && waiting_.wake_one()) {
        }
        waking_ = false;
    }
    std::size_t places_;
    bool waking_ = false;
    WaitList waiting_;
};

/// Lets one task at a time through, as a Semaphore does.
class Mutex {
public:
    using Guard = Semaphore::Guard;
    Task<Guard> lock() { return one_.take(); }

private:
    Semaphore one_{1};
};

}  // namespace snapvm::disk
