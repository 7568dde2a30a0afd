// SPDX-License-Identifier: Apache-2.0
// snapvm snapshot: a running machine into an area.
#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "snapshot/area_path.h"
#include "vmm/base/fd.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/control.h"

namespace snapvm::cli {
namespace {

using Json = nlohmann::ordered_json;

// Terabytes onto a slow disk; who is impatient presses Ctrl-C.
constexpr std::chrono::hours kPatience{12};
constexpr std::size_t kMaxMetadata = 64 << 10;
// Named in the design, not built yet. Listed so that they are refused by name, and not taken for typing errors.
constexpr std::array kLaterOptions = {"--max-pause", "--threshold", "--staging", "--when-diverging", "--release-free"};

struct SnapshotOptions {
    std::string name;
    std::string area;
    std::string type = "auto";
    std::string mode = "stop";
    std::string then;
    std::string metadata_file;
    std::string cache = "auto";
    std::array<std::string, kLaterOptions.size()> later;
    bool track = false;
};

std::unexpected<Error> not_yet(const std::string& what) { return fail(ErrorKind::usage, what + " is not there yet"); }

Status check_supported(const SnapshotOptions& options) {
    if (options.type == "diff") {
        return not_yet("--type diff");
    }
    if (options.mode != "stop") {
        return not_yet("--mode " + options.mode);
    }
    for (std::size_t i = 0; i < kLaterOptions.size(); ++i) {
        if (!options.later[i].empty()) {
            return not_yet(kLaterOptions[i]);
        }
    }
    if (options.track) {
        return not_yet("--track");
    }
    return {};
}

// The machine's process has another working directory.
Result<std::string> absolute_area(const std::string& text) {
    AreaPath area = TRY(AreaPath::parse(text));
    std::error_code error;
    const auto path = std::filesystem::absolute(area.path, error);
    if (error) {
        return fail(ErrorKind::system, area.path + ": " + error.message());
    }
    // With the offset always, so that a name that ends in @DIGITS is not taken apart again.
    return path.lexically_normal().string() + "@" + std::to_string(area.offset);
}

Result<Json> read_metadata(const std::string& path) {
    const std::string text = TRY(read_file(path, 1 << 20));
    Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (value.is_discarded()) {
        return fail(ErrorKind::invalid, path + " is not JSON");
    }
    if (value.dump().size() > kMaxMetadata) {
        return fail(ErrorKind::usage, path + " is larger than 64 KiB without white space");
    }
    return value;
}

std::string milliseconds_text(std::uint64_t us) {
    std::array<char, 32> text;
    std::snprintf(text.data(), text.size(), "%.1f ms", static_cast<double>(us) / 1000);
    return text.data();
}

void print_human(const std::string& area, const Json& report) {
    std::string pages;
    for (const auto& [name, count] : report["pages"].items()) {
        if (count != 0) {
            pages += (pages.empty() ? "" : ", ") + count.dump() + " " + name;
        }
    }
    std::printf("%s: %s, %.1f MiB written, paused %s, %s in all\npages: %s\n", area.c_str(), report.value("type", "").c_str(),
                static_cast<double>(report.value("written_bytes", std::uint64_t{0})) / (1 << 20),
                milliseconds_text(report.value("pause_us", std::uint64_t{0})).c_str(),
                milliseconds_text(report.value("total_us", std::uint64_t{0})).c_str(), pages.c_str());
}

Result<int> snapshot(const Globals& globals, const SnapshotOptions& options) {
    TRY(check_supported(options));
    Json body = {{"snapshot_path", TRY(absolute_area(options.area))}, {"mode", options.mode}, {"cache", options.cache}};
    if (options.type == "full") {
        body["snapshot_type"] = "Full";
    }
    if (!options.then.empty()) {
        body["then"] = options.then;
    }
    if (!options.metadata_file.empty()) {
        body["metadata"] = TRY(read_metadata(options.metadata_file));
    }
    api::ApiClient client = TRY(connect_machine(globals, options.name));
    const std::string text = body.dump(-1, ' ', false, Json::error_handler_t::replace);
    const std::string report = TRY(ask(client, "PUT", "/snapshot/create", text, kPatience));
    if (globals.json) {
        print_line(report);
        return 0;
    }
    const Json fields = Json::parse(report, nullptr, /*allow_exceptions=*/false);
    if (!fields.is_object() || !fields.contains("pages")) {
        return fail(ErrorKind::invalid, "the machine's answer is no snapshot report: " + report);
    }
    print_human(options.area, fields);
    return 0;
}

}  // namespace

void add_snapshot(CLI::App& app, Globals& globals, Action& chosen) {
    CLI::App* command = app.add_subcommand("snapshot", "write a running machine into an area, a file or block device");
    auto options = std::make_shared<SnapshotOptions>();
    command->add_option("NAME", options->name, "the machine")->required();
    command->add_option("AREA", options->area, "PATH[@OFFSET]; a file that does not exist is made")->required();
    command->add_option("--type", options->type, "auto or full (diff: not yet)")->check(CLI::IsMember({"auto", "full", "diff"}));
    command->add_option("--mode", options->mode, "stop: the vCPUs stand still meanwhile (live, precopy: not yet)")
        ->check(CLI::IsMember({"live", "precopy", "stop"}));
    command->add_option("--then", options->then, "what the machine does afterwards (default: as before)")
        ->check(CLI::IsMember({"run", "pause", "stop"}));
    command->add_option("--meta", options->metadata_file, "JSON file to keep with the snapshot, 64 KiB at most");
    command->add_option("--cache", options->cache, "leave page data in the page cache: auto, cached, direct")
        ->check(CLI::IsMember({"auto", "cached", "direct"}));
    for (std::size_t i = 0; i < kLaterOptions.size(); ++i) {
        command->add_option(kLaterOptions[i], options->later[i])->group("");
    }
    command->add_flag("--track", options->track)->group("");
    command->callback([=, &globals, &chosen] { chosen = [=, &globals] { return snapshot(globals, *options); }; });
}

}  // namespace snapvm::cli
