// SPDX-License-Identifier: Apache-2.0
#include "bench/report.h"

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

using Json = nlohmann::ordered_json;

// The time, in microseconds, from which a single system call is shown.
constexpr double kWorthShowing = 10;
constexpr std::size_t kEnoughForP99 = 200;

std::vector<double> sorted(std::vector<double> values) {
    std::ranges::sort(values);
    return values;
}

Json to_json(const Parts& parts) {
    Json json = Json::object();
    for (const auto& [name, us] : parts) {
        json[name] = us;
    }
    return json;
}

const std::vector<double>* find_part(const std::vector<std::pair<std::string, std::vector<double>>>& parts,
                                     const std::string& name) {
    const auto found = std::ranges::find(parts, name, [](const auto& part) { return part.first; });
    return found == parts.end() ? nullptr : &found->second;
}

void print_side(const std::vector<double>& values) {
    if (values.empty()) {
        std::printf(" | %8s %8s %8s", "-", "-", "-");
        return;
    }
    const std::vector<double> in_order = sorted(values);
    std::printf(" | %8.3f %8.3f %8.3f", percentile(in_order, 50) / 1e3, percentile(in_order, 90) / 1e3,
                in_order.back() / 1e3);
}

}  // namespace

std::string_view name_of(Side side) { return side == Side::floor ? "floor" : "ours"; }

double percentile(const std::vector<double>& sorted, unsigned percent) {
    if (sorted.empty()) {
        return 0;
    }
    const std::size_t rank = (sorted.size() * percent + 99) / 100;
    return sorted[std::max<std::size_t>(rank, 1) - 1];
}

Result<Report> Report::open(const std::string& path, HostFacts facts) {
    std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "we"));
    if (!file) {
        return fail(Error::system("fopen", path, errno, "choose another --out"));
    }
    Report report(std::move(file), std::move(facts));
    TRY(report.write(report.facts_.long_json()));
    return report;
}

Status Report::write(const std::string& line) {
    if (std::fprintf(file_.get(), "%s\n", line.c_str()) < 0 || std::fflush(file_.get()) != 0) {
        return fail(Error::system("fprintf", "the results file", errno));
    }
    return {};
}

Report::Case& Report::find(const std::string& scenario, const std::string& name) {
    const Key key{scenario, name};
    const auto found = std::ranges::find(cases_, key, [](const auto& entry) { return entry.first; });
    return found == cases_.end() ? cases_.emplace_back(key, Case{}).second : found->second;
}

const Report::Case* Report::find(const std::string& scenario, const std::string& name) const {
    const auto found = std::ranges::find(cases_, Key{scenario, name}, [](const auto& entry) { return entry.first; });
    return found == cases_.end() ? nullptr : &found->second;
}

void Report::note(std::vector<std::pair<std::string, std::vector<double>>>& all, const Parts& parts) {
    for (const auto& [name, us] : parts) {
        auto found = std::ranges::find(all, name, [](const auto& part) { return part.first; });
        if (found == all.end()) {
            found = all.insert(all.end(), {name, {}});
        }
        found->second.push_back(us);
    }
}

Status Report::add(Sample sample) {
    if (sample.run < 0) {
        return {};
    }
    Case& kept = find(sample.scenario, sample.name);
    kept.totals[sample.side].push_back(sample.us);
    note(kept.parts[sample.side], sample.parts);
    note(kept.figures[sample.side], sample.figures);
    Json json = {{"record", "sample"},           {"scenario", sample.scenario}, {"case", sample.name},
                 {"side", name_of(sample.side)}, {"run", sample.run},           {"us", sample.us}};
    if (!sample.parts.empty()) {
        json["parts"] = to_json(sample.parts);
    }
    if (!sample.figures.empty()) {
        json["figures"] = to_json(sample.figures);
    }
    facts_.add_to(json);
    return write(json.dump());
}

Status Report::add_parts(const std::string& scenario, const std::string& name, Side side,
                         const std::vector<Parts>& runs) {
    Case& kept = find(scenario, name);
    for (const Parts& parts : runs) {
        note(kept.parts[side], parts);
        Json json = {{"record", "parts"},
                     {"scenario", scenario},
                     {"case", name},
                     {"side", name_of(side)},
                     {"parts", to_json(parts)}};
        facts_.add_to(json);
        TRY(write(json.dump()));
    }
    return {};
}

void Report::print_table() const {
    std::printf("%-22s %-42s %4s | %-26s | %-26s | %6s %9s\n", "times in ms", "", "", "floor", "ours", "", "");
    std::printf("%-22s %-42s %4s | %8s %8s %8s | %8s %8s %8s | %6s %9s\n", "scenario", "case", "n", "p50", "p90", "max",
                "p50", "p90", "max", "ratio", "above, ms");
    for (const auto& [key, kept] : cases_) {
        const auto values = [&](Side side) {
            const auto found = kept.totals.find(side);
            return found == kept.totals.end() ? std::vector<double>{} : found->second;
        };
        const std::vector<double> floor = values(Side::floor);
        const std::vector<double> ours = values(Side::ours);
        std::printf("%-22s %-42s %4zu", key.first.c_str(), key.second.c_str(), std::max(floor.size(), ours.size()));
        print_side(floor);
        print_side(ours);
        if (floor.empty() || ours.empty()) {
            std::printf(" | %6s %9s\n", "-", "-");
            continue;
        }
        const double floor_p50 = percentile(sorted(floor), 50);
        const double ours_p50 = percentile(sorted(ours), 50);
        std::printf(" | %6.2f %+9.3f\n", ours_p50 / floor_p50, (ours_p50 - floor_p50) / 1e3);
    }
}

void Report::print_parts() const {
    for (const auto& [key, kept] : cases_) {
        for (const auto& [side, parts] : kept.parts) {
            if (parts.empty()) {
                continue;
            }
            std::printf("  %s, %s, %s (p50, ms):", key.first.c_str(), key.second.c_str(),
                        std::string(name_of(side)).c_str());
            for (const auto& [name, values] : parts) {
                const double us = percentile(sorted(values), 50);
                if (us >= kWorthShowing || name.find('(') == std::string::npos) {
                    std::printf("  %s %.3f", name.c_str(), us / 1e3);
                }
            }
            std::printf("\n");
        }
    }
}

void Report::print_figures() const {
    for (const auto& [key, kept] : cases_) {
        for (const auto& [side, figures] : kept.figures) {
            if (figures.empty()) {
                continue;
            }
            std::printf("  %s, %s, %s (p50):", key.first.c_str(), key.second.c_str(),
                        std::string(name_of(side)).c_str());
            for (const auto& [name, values] : figures) {
                std::printf("  %s %.4g", name.c_str(), percentile(sorted(values), 50));
            }
            std::printf("\n");
        }
        for (const auto& [side, values] : kept.totals) {
            if (values.size() >= kEnoughForP99) {
                std::printf("  %s, %s, %s: p99 %.3f ms\n", key.first.c_str(), key.second.c_str(),
                            std::string(name_of(side)).c_str(), percentile(sorted(values), 99) / 1e3);
            }
        }
    }
}

double Report::p50(const std::string& scenario, const std::string& name, Side side, const std::string& part) const {
    const Case* kept = find(scenario, name);
    if (kept == nullptr) {
        return 0;
    }
    if (part.empty()) {
        const auto found = kept->totals.find(side);
        return found == kept->totals.end() ? 0 : percentile(sorted(found->second), 50);
    }
    const auto found = kept->parts.find(side);
    const std::vector<double>* values = found == kept->parts.end() ? nullptr : find_part(found->second, part);
    return values == nullptr ? 0 : percentile(sorted(*values), 50);
}

}  // namespace snapvm::bench
