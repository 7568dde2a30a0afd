// SPDX-License-Identifier: Apache-2.0
// Samples: each goes to the results file as it is taken, all of them into a table at the end.
#pragma once

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/host_facts.h"
#include "vmm/base/error.h"

namespace snapvm::bench {

enum class Side : std::uint8_t { floor, ours };
[[nodiscard]] std::string_view name_of(Side side);

/// Named times in microseconds, in the order in which they are to be shown.
using Parts = std::vector<std::pair<std::string, double>>;

struct Sample {
    std::string scenario;
    std::string name;  ///< of the case
    Side side{};
    int run = 0;
    double us = 0;
    Parts parts;    ///< of `us`, or beside it
    Parts figures;  ///< what is no time; the names say the units
};

/// Percentiles of a sorted list by nearest rank: every figure shown is one that was measured.
[[nodiscard]] double percentile(const std::vector<double>& sorted, unsigned percent);

class Report {
public:
    /// Opens (truncates) the results file and writes the host's facts as its first line.
    static Result<Report> open(const std::string& path, HostFacts facts);

    /// Keeps and writes a sample; warm-up runs (negative) are dropped.
    Status add(Sample sample);
    /// Parts from runs of their own, made slower by the watching: shown and written, never counted.
    Status add_parts(const std::string& scenario, const std::string& name, Side side, const std::vector<Parts>& runs);

    /// Nothing that counts has been measured.
    [[nodiscard]] bool empty() const { return cases_.empty(); }
    /// One line a case: n, floor and ours (p50, p90, maximum), ratio and difference of the p50s.
    void print_table() const;
    /// p50 of every part, floor and ours.
    void print_parts() const;
    /// p50 of every figure that is no time, and p99 of the times where there are enough of them.
    void print_figures() const;
    /// p50 of a part (or of the total, for ""), in microseconds; 0 when there is none.
    [[nodiscard]] double p50(const std::string& scenario, const std::string& name, Side side, const std::string& part = "") const;

private:
    using Key = std::pair<std::string, std::string>;
    struct Case {
        std::map<Side, std::vector<double>> totals;
        std::map<Side, std::vector<std::pair<std::string, std::vector<double>>>> parts;
        std::map<Side, std::vector<std::pair<std::string, std::vector<double>>>> figures;
    };
    struct Close {
        void operator()(std::FILE* file) const { std::fclose(file); }
    };

    Report(std::unique_ptr<std::FILE, Close> file, HostFacts facts) : file_(std::move(file)), facts_(std::move(facts)) {}
    Case& find(const std::string& scenario, const std::string& name);
    [[nodiscard]] const Case* find(const std::string& scenario, const std::string& name) const;
    static void note(std::vector<std::pair<std::string, std::vector<double>>>& all, const Parts& parts);
    Status write(const std::string& line);

    std::unique_ptr<std::FILE, Close> file_;
    HostFacts facts_;
    std::vector<std::pair<Key, Case>> cases_;
};

}  // namespace snapvm::bench
