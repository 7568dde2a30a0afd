// SPDX-License-Identifier: Apache-2.0
// Counters. Each is declared beside what it counts, and turns up in `snapvm stats` and GET /stats
// by itself (DECISIONS.md, "Counters").
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace snapvm {

class Counter;

/// The counters of one part of a machine, such as a device. The part declares it before them. Any
/// thread may read it.
class Counters {
public:
    struct Value {
        std::string_view name;
        std::uint64_t value = 0;
    };
    Counters() = default;
    Counters(const Counters&) = delete;
    Counters& operator=(const Counters&) = delete;

    /// Returns all values, in the order of the declarations.
    [[nodiscard]] std::vector<Value> read() const;
    /// Returns the value of one counter, or nothing if there is none of that name.
    [[nodiscard]] std::optional<std::uint64_t> find(std::string_view name) const;

private:
    friend class Counter;
    std::vector<const Counter*> all_;
};

/// A number that only grows, from 0 when its part is made. Snapshots do not keep it.
class Counter {
public:
    /// `name` is its name in JSON: a literal in lower case, with underscores, that says the unit if
    /// it does not count events.
    Counter(Counters& part, const char* name) : name_(name) { part.all_.push_back(this); }
    Counter(const Counter&) = delete;
    Counter& operator=(const Counter&) = delete;

    /// One thread at a time may add like this (the part's lock or its one thread ensures it). It
    /// takes no locked instruction.
    Counter& operator+=(std::uint64_t more) {
        value_.store(value() + more, std::memory_order_relaxed);
        return *this;
    }
    Counter& operator++() { return *this += 1; }
    /// Adds one. Several threads may do so at once.
    void count_shared() { value_.fetch_add(1, std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }

private:
    friend class Counters;
    std::string_view name_;
    std::atomic<std::uint64_t> value_ = 0;
};

inline std::vector<Counters::Value> Counters::read() const {
    std::vector<Value> values;
    values.reserve(all_.size());
    for (const Counter* counter : all_) {
        values.push_back({counter->name_, counter->value()});
    }
    return values;
}

inline std::optional<std::uint64_t> Counters::find(std::string_view name) const {
    for (const Counter* counter : all_) {
        if (counter->name_ == name) {
            return counter->value();
        }
    }
    return std::nullopt;
}

/// What one part has counted.
struct PartCounters {
    std::string part;
    std::vector<Counters::Value> values;
};

}  // namespace snapvm
