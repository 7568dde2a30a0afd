// SPDX-License-Identifier: Apache-2.0
// snapvm snapshot, snapshot-status, snapshot-cancel and detach.
#include <array>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "snapshot/area/area_path.h"
#include "vmm/base/fd.h"
#include "vmm/base/printable.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/control.h"
#include "vmm/cli/snapshot_watch.h"

namespace snapvm::cli {
namespace {

using Json = nlohmann::ordered_json;

// Enough for terabytes on a slow disk; the user can press Ctrl-C before.
constexpr std::chrono::hours kPatience{12};
constexpr std::size_t kMaxMetadata = 64 << 10;

struct SnapshotOptions {
    std::string name;
    std::string area;
    std::string type = "auto";
    std::string mode = "live";
    std::string max_pause;
    std::string threshold;
    std::string staging;
    std::string when_diverging = "protect";
    std::string then;
    std::string metadata_file;
    std::string cache = "auto";
    std::string release_free;  ///< "true" without a size
    bool track = false;
};

// Makes the path absolute, since the machine's process has another working directory.
Result<std::string> absolute_area(const std::string& text) {
    AreaPath area = TRY(AreaPath::parse(text));
    std::error_code error;
    const auto path = std::filesystem::absolute(area.path, error);
    if (error) {
        return fail(ErrorKind::system, area.path + ": " + error.message());
    }
    // Always with the offset, so that a name that ends in @DIGITS is not split again.
    return path.lexically_normal().string() + "@" + std::to_string(area.offset);
}

Result<Json> read_metadata(const std::string& path) {
    const std::string text = TRY(read_file(path, 1 << 20));
    Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (value.is_discarded()) {
        return fail(ErrorKind::invalid, path + " is not JSON", "give a file with one JSON value");
    }
    if (json_text(value).size() > kMaxMetadata) {
        return fail(ErrorKind::usage, path + " is larger than 64 KiB without white space", "give at most 64 KiB");
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
            pages += (pages.empty() ? "" : ", ") + json_text(count) + " " + name;
        }
    }
    if (const auto released = report.value("released_bytes", std::uint64_t{0}); released > 0) {
        print(stdout, "%.1f MiB that the guest had free are not in the snapshot\n",
              static_cast<double>(released) / (1 << 20));
    }
    print(stdout, "%s: %s, %.1f MiB written, paused %s, %s in all\npages: %s\n", area.c_str(),
          report.value("type", "").c_str(),
          static_cast<double>(report.value("written_bytes", std::uint64_t{0})) / (1 << 20),
          milliseconds_text(report.value("pause_us", std::uint64_t{0})).c_str(),
          milliseconds_text(report.value("total_us", std::uint64_t{0})).c_str(), pages.c_str());
    if (report.contains("protect_refused")) {
        print(stdout, "--when-diverging protect became %s: %s\n", report.value("when_diverging", "").c_str(),
              report.value("protect_refused", "").c_str());
    }
    if (report.contains("lost")) {
        print_error("warning: " + report.value("lost", ""));
    }
}

// Parses "25%" of the machine's memory, or a size.
Result<std::uint64_t> staging_bytes(const std::string& text, api::ApiClient& client) {
    if (!text.ends_with('%')) {
        return parse_size(text);
    }
    unsigned percent = 0;
    const char* end = text.data() + text.size() - 1;
    if (const auto [at, error] = std::from_chars(text.data(), end, percent);
        error != std::errc() || at != end || percent > 100) {
        return fail(ErrorKind::usage, "--staging " + text + " is not a share of memory", "give 0% to 100%, or a size");
    }
    const Json stats =
        Json::parse(TRY(ask(client, "GET", "/stats", "", kQuickAnswer)), nullptr, /*allow_exceptions=*/false);
    return stats.is_object() ? stats.value("memory_bytes", std::uint64_t{0}) / 100 * percent : 0;
}

Result<int> snapshot(const Globals& globals, const SnapshotOptions& options) {
    Json body = {{"snapshot_path", TRY(absolute_area(options.area))},
                 {"mode", options.mode},
                 {"cache", options.cache},
                 {"when_diverging", options.when_diverging}};
    if (options.type != "auto") {
        body["snapshot_type"] = options.type == "full" ? "Full" : "Diff";
    }
    if (options.track) {
        body["track"] = true;
    }
    if (!options.release_free.empty()) {
        body["release_free"] = true;
    }
    if (!options.release_free.empty() && options.release_free != "true") {
        body["release_free_max_bytes"] = TRY(parse_size(options.release_free));
    }
    if (!options.then.empty()) {
        body["then"] = options.then;
    }
    if (!options.metadata_file.empty()) {
        body["metadata"] = TRY(read_metadata(options.metadata_file));
    }
    if (!options.max_pause.empty()) {
        body["max_pause_us"] = std::chrono::microseconds(TRY(parse_duration(options.max_pause))).count();
    }
    if (!options.threshold.empty()) {
        body["threshold_bytes"] = TRY(parse_size(options.threshold));
    }
    api::ApiClient client = TRY(connect_machine(globals, options.name));
    if (!options.staging.empty()) {
        body["staging_bytes"] = TRY(staging_bytes(options.staging, client));
    }
    const std::string text = json_text(body);
    SnapshotWatch watch(globals, options.name);
    const std::string report = TRY(ask(client, "PUT", "/snapshot/create", text, kPatience));
    watch.end();
    const Json fields = Json::parse(report, nullptr, /*allow_exceptions=*/false);
    if (globals.json) {
        print_line(report);
    } else {
        if (!fields.is_object() || !fields.contains("pages")) {
            return fail(ErrorKind::invalid, "the machine's answer is not a snapshot report: " + report);
        }
        print_human(options.area, fields);
    }
    if (fields.is_object() && fields.contains("unrecorded")) {
        std::fflush(stdout);
        print(stderr,
              "snapvm: the snapshot is complete, but what its devices use on this host is not written down "
              "(%s); to restore it, name that with --set, or give --trust-paths\n",
              fields.value("unrecorded", "").c_str());
    }
    if (options.then == "stop") {
        std::fflush(stdout);
        // As after `stop`, the machine's name is free for what follows. The exit code is the
        // snapshot's (DECISIONS.md).
        if (const Status gone = wait_gone(globals, options.name, kQuickAnswer); !gone) {
            print(stderr, "snapvm: the snapshot is complete; %s within %d s\n", gone.error().message().c_str(),
                  static_cast<int>(kQuickAnswer.count()));
        }
    }
    return 0;
}

Result<int> snapshot_status(const Globals& globals, const std::string& name) {
    api::ApiClient client = TRY(connect_machine(globals, name));
    const std::string answer = TRY(ask(client, "GET", "/snapshot/status", "", kQuickAnswer));
    const Json status = Json::parse(answer, nullptr, /*allow_exceptions=*/false);
    if (globals.json || !status.is_object()) {
        print_line(answer);
    } else {
        print_line(progress_text(answer));
    }
    return 0;
}

Result<int> detach(const Globals& globals, const std::string& name) {
    api::ApiClient client = TRY(connect_machine(globals, name));
    SnapshotWatch watch(globals, name);
    const std::string answer = TRY(ask(client, "PUT", "/snapshot/detach", "", kPatience));
    watch.end();
    const Json report = Json::parse(answer, nullptr, /*allow_exceptions=*/false);
    if (globals.json || !report.is_object()) {
        print_line(answer);
    } else if (!report.value("mapped", false)) {
        print_line(name + " maps no snapshot");
    } else {
        print_line(name + " maps no snapshot any more: " + std::to_string(report.value("read_pages", 0ULL)) +
                   " pages read, " + std::to_string(report.value("copied_pages", 0ULL)) +
                   " copied, the guest stood for at most " + std::to_string(report.value("longest_freeze_us", 0ULL)) +
                   " us at a time");
    }
    return 0;
}

Result<int> snapshot_cancel(const Globals& globals, const std::string& name) {
    api::ApiClient client = TRY(connect_machine(globals, name));
    TRY(ask(client, "PUT", "/snapshot/cancel", "", kQuickAnswer));
    return 0;
}

}  // namespace

void add_snapshot(Command program, Globals& globals) {
    Command command =
        program.subcommand("snapshot", "write a running machine into a snapshot area, a file or block device");
    auto options = std::make_shared<SnapshotOptions>();
    command.example("snapvm snapshot vm vm.snap --then stop");
    command.required("NAME", options->name, "the machine");
    command.required("AREA", options->area, "PATH[@OFFSET]; a file that does not exist is made");
    command.option("--type", options->type, {"auto", "full", "diff"},
                   "auto: what changed since the last snapshot in this area if that is known, else everything; full: "
                   "everything; diff: what changed (default: auto)");
    command.option("--mode", options->mode, {"live", "precopy", "stop"},
                   "live: rounds while the guest runs, the later ones into memory; precopy: all rounds onto the disk; "
                   "stop: the guest stands for all of it (default: live)");
    command.option("--max-pause TIME", options->max_pause,
                   "how long the copy of the last round may take (default: 1ms)");
    command.option("--threshold SIZE", options->threshold, "rounds end in any case if no more than this is left");
    command.option("--staging SIZE|N%", options->staging,
                   "memory for rounds: a size, or a share of the guest's memory (default: 25%)");
    command.option("--when-diverging", options->when_diverging, {"protect", "throttle", "stop", "cancel"},
                   "what happens if the guest writes faster than snapvm copies (default: protect)");
    command.option("--then", options->then, {"run", "pause", "stop"},
                   "what the machine does afterwards (default: what it did before); after stop the command waits until "
                   "the machine's process is gone, 10 s at most");
    command.option("--meta FILE", options->metadata_file, "a JSON file that is kept with the snapshot, 64 KiB at most");
    command.option("--cache", options->cache, {"auto", "cached", "direct"},
                   "whether page data stays in the host's page cache (default: auto)");
    // A flag, so that an argument that follows without a `=` is not taken for its size.
    command.flag("--release-free", options->release_free,
                 "=MAX: take the memory that the guest has free, MAX at most, out of the snapshot");
    command.flag("--track", options->track,
                 "go on tracking writes, so that the next snapshot into this area writes only what changed; the next "
                 "snapshot without it ends the tracking");
    command.action([=, &globals] { return snapshot(globals, *options); });
}

void add_snapshot_status(Command program, Globals& globals) {
    Command command = program.subcommand(
        "snapshot-status", "show how far a machine's snapshot or detach is, or how the last snapshot ended");
    auto name = std::make_shared<std::string>();
    command.example("snapvm snapshot-status vm");
    command.required("NAME", *name, "the machine");
    command.action([=, &globals] { return snapshot_status(globals, *name); });
}

void add_detach(Command program, Globals& globals) {
    Command command = program.subcommand("detach", "make a restored machine independent of the snapshot that it maps");
    auto name = std::make_shared<std::string>();
    command.example("snapvm detach clone-1");
    command.required("NAME", *name, "the machine");
    command.action([=, &globals] { return detach(globals, *name); });
}

void add_snapshot_cancel(Command program, Globals& globals) {
    Command command = program.subcommand("snapshot-cancel", "call off a machine's snapshot or detach");
    auto name = std::make_shared<std::string>();
    command.example("snapvm snapshot-cancel vm");
    command.required("NAME", *name, "the machine");
    command.action([=, &globals] { return snapshot_cancel(globals, *name); });
}

}  // namespace snapvm::cli
