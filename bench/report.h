// SPDX-License-Identifier: Apache-2.0
// Collects samples. Each is written to the results file when it is taken; a table at the end shows
// all of them.
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

/// Named times in microseconds, in the order in which they are shown.
using Parts = std::vector<std::pair<std::string, double>>;

struct Sample {
    std::string scenario;
    std::string name;  ///< name of the case
    Side side{};
    int run = 0;
    double us = 0;
    Parts parts;  ///< parts of `us`, or other times of the same run
    Parts figures;  ///< values that are no times; the names say the units
};

/// Returns a percentile of a sorted list by nearest rank, so that every figure shown was measured.
[[nodiscard]] double percentile(const std::vector<double>& sorted, unsigned percent);

class Report {
public:
    /// Opens (truncates) the results file, and writes the host's facts as its first line.
    static Result<Report> open(const std::string& path, HostFacts facts);

    /// Keeps and writes a sample. Warm-up runs (negative numbers) are dropped.
    Status add(Sample sample);
    /// Adds parts from separate runs, which the measuring made slower. They are shown and written,
    /// and count in no total.
    Status add_parts(const std::string& scenario, const std::string& name, Side side, const std::vector<Parts>& runs);

    /// Returns whether no sample was kept.
    [[nodiscard]] bool empty() const { return cases_.empty(); }
    /// Prints one line for each case: n, floor and ours (p50, p90, maximum), ratio and difference
    /// of the p50s.
    void print_table() const;
    /// Prints the p50 of every part, for floor and ours.
    void print_parts() const;
    /// Prints the p50 of every figure, and the p99 of the times if there are enough samples.
    void print_figures() const;
    /// Returns the p50 of a part (of the total, for ""), in microseconds, 0 if there is none.
    [[nodiscard]] double p50(const std::string& scenario, const std::string& name, Side side,
                             const std::string& part = "") const;

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

    Report(std::unique_ptr<std::FILE, Close> file, HostFacts facts)
        : file_(std::move(file)), facts_(std::move(facts)) {}
    Case& find(const std::string& scenario, const std::string& name);
    [[nodiscard]] const Case* find(const std::string& scenario, const std::string& name) const;
    static void note(std::vector<std::pair<std::string, std::vector<double>>>& all, const Parts& parts);
    Status write(const std::string& line);

    std::unique_ptr<std::FILE, Close> file_;
    HostFacts facts_;
    std::vector<std::pair<Key, Case>> cases_;
};

}  // namespace snapvm::bench
