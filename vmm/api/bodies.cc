// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/bodies.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "vmm/base/printable.h"
#include "vmm/base/try.h"
#include "vmm/control/line_matcher.h"

namespace snapvm::api {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 32;  // limits the recursion of json_text()
constexpr std::uint64_t kMaxTimeoutMs = 24ULL * 3600 * 1000;
constexpr std::uint64_t kMaxPauseUs = 3'600'000'000;
constexpr std::uint64_t kMaxBytes = 1ULL << 50;
constexpr std::size_t kMaxMetadata = 64 << 10;

std::unexpected<Error> bad(std::string what) { return fail(ErrorKind::usage, std::move(what)); }

struct BadShape {
    std::string what;
};

// A JSON object that has only the allowed fields.
class Fields {
public:
    static Result<Fields> parse(std::string_view body, std::initializer_list<std::string_view> allowed) {
        std::set<std::string, std::less<>> seen;
        const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
            if (depth > kMaxDepth) {
                throw BadShape{"the body is nested too deeply"};
            }
            if (event != json::parse_event_t::key || depth != 1) {
                return true;
            }
            const auto& name = parsed.get_ref<const std::string&>();
            if (std::ranges::find(allowed, name) == allowed.end()) {
                throw BadShape{"unknown field \"" + printable(name) + "\""};
            }
            if (!seen.insert(name).second) {
                throw BadShape{"field \"" + name + "\" is given twice"};
            }
            return true;
        };
        try {
            Fields fields;
            fields.object_ = json::parse(body.begin(), body.end(), check);
            if (!fields.object_.is_object()) {
                return bad("the body is not a JSON object");
            }
            return fields;
        } catch (const BadShape& e) {
            return bad(e.what);
        } catch (const std::exception&) {
            // The library's own message quotes the input, which may contain anything.
            return bad(body.empty() ? "the body is empty; give a JSON object" : "the body is not valid JSON");
        }
    }

    [[nodiscard]] const json* find(const char* name) const {
        const auto at = object_.find(name);
        return at == object_.end() ? nullptr : &*at;
    }
    [[nodiscard]] bool has(const char* name) const { return find(name) != nullptr; }

    Result<std::string> text(const char* name) const {
        const json* value = find(name);
        if (value == nullptr) {
            return bad("field \"" + std::string(name) + "\" is missing");
        }
        if (!value->is_string()) {
            return bad("field \"" + std::string(name) + "\" is not a string");
        }
        return value->get<std::string>();
    }
    Result<bool> flag(const char* name, bool otherwise) const {
        const json* value = find(name);
        if (value != nullptr && !value->is_boolean()) {
            return bad("field \"" + std::string(name) + "\" is not true or false");
        }
        return value != nullptr ? value->get<bool>() : otherwise;
    }
    Result<std::uint64_t> number(const char* name, std::uint64_t otherwise, std::uint64_t limit) const {
        const json* value = find(name);
        if (value == nullptr) {
            return otherwise;
        }
        if (!value->is_number_unsigned() || value->get<std::uint64_t>() > limit) {
            return bad("field \"" + std::string(name) + "\" is not a whole number from 0 to " + std::to_string(limit));
        }
        return value->get<std::uint64_t>();
    }
    /// Returns the place of the field's word in `words`, or 0, the first, if the field is absent.
    Result<std::size_t> word(const char* name, std::initializer_list<std::string_view> words) const {
        if (!has(name)) {
            return 0;
        }
        const std::string value = TRY(text(name));
        const auto at = std::ranges::find(words, value);
        if (at == words.end()) {
            std::string all;
            for (const std::string_view word : words) {
                all.append(all.empty() ? "" : ", ").append(word);
            }
            return bad("field \"" + std::string(name) + "\" is not one of: " + all);
        }
        return static_cast<std::size_t>(at - words.begin());
    }

private:
    static std::string printable(std::string text) {
        text.resize(std::min<std::size_t>(text.size(), 64));
        std::ranges::replace_if(text, [](char c) { return c < ' ' || c > '~'; }, '?');
        return text;
    }
    json object_;
};

// Returns the values of an object that has these fields, which are strings, and no others. `where`
// names it in messages.
Result<std::vector<std::string>> texts_in(const json& object, const std::string& where,
                                          std::initializer_list<const char*> names) {
    std::vector<std::string> values;
    for (const char* name : names) {
        const auto at = object.is_object() ? object.find(name) : object.end();
        if (at == object.end() || !at->is_string()) {
            return bad("\"" + where + "\" lacks the string \"" + name + "\"");
        }
        values.push_back(at->get<std::string>());
    }
    if (object.size() != values.size()) {
        return bad("\"" + where + "\" has an unknown field");
    }
    return values;
}

// A snapshot area has memory and state, so a path for memory can only be the area's.
Status check_memory_is_in(const std::string& area, const Fields& fields) {
    std::vector<std::string> paths;
    if (fields.has("mem_file_path")) {
        paths.push_back(TRY(fields.text("mem_file_path")));
    }
    if (const json* backend = fields.find("mem_backend")) {
        const std::vector<std::string> texts = TRY(texts_in(*backend, "mem_backend", {"backend_type", "backend_path"}));
        if (texts[0] != "File") {
            return bad("\"backend_type\" can only be File");
        }
        paths.push_back(texts[1]);
    }
    if (std::ranges::any_of(paths, [&](const std::string& path) { return path != area; })) {
        return fail(ErrorKind::usage, "memory and state are in one area",
                    "leave \"mem_file_path\" and \"mem_backend\" out, or give them the value of \"snapshot_path\"");
    }
    return {};
}

// Returns the devices that a list of overrides names, and what each is to use. `id` and `value` are
// the fields of its elements.
Result<std::map<std::string, std::string>> parse_overrides(const Fields& fields, const char* name, const char* id,
                                                           const char* value) {
    std::map<std::string, std::string> overrides;
    const json* list = fields.find(name);
    if (list == nullptr) {
        return overrides;
    }
    if (!list->is_array()) {
        return bad("field \"" + std::string(name) + "\" is not a list");
    }
    for (const json& one : *list) {
        std::vector<std::string> texts = TRY(texts_in(one, name, {id, value}));
        if (!overrides.emplace(texts[0], std::move(texts[1])).second) {
            return bad("\"" + std::string(name) + "\" names a device twice");
        }
    }
    return overrides;
}

Result<std::string> percent_decode(std::string_view text) {
    const auto digit = [](char c) {
        return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
    };
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '%') {
            // '+' stands for itself: regular expressions use it often, and RFC 3986 gives it no
            // other meaning.
            out.push_back(text[i]);
            continue;
        }
        if (i + 2 >= text.size() || digit(text[i + 1]) < 0 || digit(text[i + 2]) < 0) {
            return bad("the query has a '%' without two hexadecimal digits behind it");
        }
        out.push_back(static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2])));
        i += 2;
    }
    return out;
}

Result<std::uint64_t> query_number(std::string_view name, const std::string& text, std::uint64_t limit) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value > limit) {
        return bad("parameter \"" + std::string(name) + "\" is not a whole number from 0 to " + std::to_string(limit));
    }
    return value;
}

}  // namespace

Result<VmStateRequest> parse_vm_state(std::string_view body) {
    const Fields fields = TRY(Fields::parse(body, {"state"}));
    if (!fields.has("state")) {
        return bad("field \"state\" is missing");
    }
    return TRY(fields.word("state", {"Paused", "Resumed"})) == 0 ? VmStateRequest::pause : VmStateRequest::resume;
}

Result<SnapshotCreateBody> parse_snapshot_create(std::string_view body) {
    const Fields fields =
        TRY(Fields::parse(body, {"snapshot_path", "mem_file_path", "snapshot_type", "mode", "max_pause_us",
                                 "threshold_bytes", "staging_bytes", "when_diverging", "track", "release_free",
                                 "release_free_max_bytes", "then", "cache", "metadata", "wait"}));
    SnapshotCreateBody create;
    const std::string path = TRY(fields.text("snapshot_path"));
    create.request.area = TRY(AreaPath::parse(path));
    if (fields.has("mem_file_path")) {
        create.firecracker = true;
        if (TRY(fields.text("mem_file_path")) != path) {
            return fail(ErrorKind::usage, "memory and state go into one area",
                        "leave \"mem_file_path\" out, or give it the value of \"snapshot_path\"");
        }
    }
    if (fields.has("snapshot_type")) {
        constexpr std::array kTypes = {SnapshotType::full, SnapshotType::diff};
        create.request.type = kTypes[TRY(fields.word("snapshot_type", {"Full", "Diff"}))];
    }
    create.request.track = TRY(fields.flag("track", false));
    if (TRY(fields.flag("release_free", false))) {
        create.request.release_free = TRY(fields.number("release_free_max_bytes", kMaxBytes, kMaxBytes));
    } else if (fields.has("release_free_max_bytes")) {
        return bad("field \"release_free_max_bytes\" needs \"release_free\"");
    }
    constexpr std::array kModes = {SnapshotMode::live, SnapshotMode::precopy, SnapshotMode::stop};
    create.request.mode = kModes[TRY(fields.word("mode", {"live", "precopy", "stop"}))];
    LiveOptions& live = create.request.live;
    live.max_pause = std::chrono::microseconds(
        TRY(fields.number("max_pause_us", static_cast<std::uint64_t>(live.max_pause.count()), kMaxPauseUs)));
    live.threshold_bytes = TRY(fields.number("threshold_bytes", 0, kMaxBytes));
    if (fields.has("staging_bytes")) {
        live.staging_bytes = TRY(fields.number("staging_bytes", 0, kMaxBytes));
    }
    constexpr std::array kDiverging = {WhenDiverging::protect, WhenDiverging::throttle, WhenDiverging::stop,
                                       WhenDiverging::cancel};
    live.when_diverging = kDiverging[TRY(fields.word("when_diverging", {"protect", "throttle", "stop", "cancel"}))];
    create.wait = TRY(fields.flag("wait", true));
    if (fields.has("then")) {
        constexpr std::array kThen = {AfterSnapshot::run, AfterSnapshot::pause, AfterSnapshot::stop};
        create.request.then = kThen[TRY(fields.word("then", {"run", "pause", "stop"}))];
    }
    constexpr std::array kCache = {CachePolicy::automatic, CachePolicy::cached, CachePolicy::direct};
    create.request.cache = kCache[TRY(fields.word("cache", {"auto", "cached", "direct"}))];
    if (const json* metadata = fields.find("metadata"); metadata != nullptr) {
        create.request.metadata = json_text(*metadata);
        if (create.request.metadata.size() > kMaxMetadata) {
            return bad("field \"metadata\" is larger than 64 KiB");
        }
    }
    return create;
}

Result<LoadRequest> parse_snapshot_load(std::string_view body) {
    const Fields fields =
        TRY(Fields::parse(body, {"snapshot_path", "mem_file_path", "mem_backend", "enable_diff_snapshots",
                                 "track_dirty_pages", "resume_vm", "drive_overrides", "network_overrides",
                                 "vsock_override", "clock_realtime", "share", "trust_paths", "max_mem_size_mib"}));
    LoadRequest load;
    const std::string path = TRY(fields.text("snapshot_path"));
    load.restore.area = TRY(AreaPath::parse(path));
    TRY(check_memory_is_in(path, fields));
    load.resume = TRY(fields.flag("resume_vm", false));
    load.restore.share = TRY(fields.flag("share", false));
    if (fields.has("max_mem_size_mib")) {
        load.restore.max_memory_bytes = TRY(fields.number("max_mem_size_mib", 0, kMaxBytes >> 20)) << 20;
    }
    load.restore.trust_paths = TRY(fields.flag("trust_paths", false));
    // Firecracker's older and newer name.
    const bool diff = TRY(fields.flag("enable_diff_snapshots", false));
    load.track = TRY(fields.flag("track_dirty_pages", false)) || diff;
    load.restore.gap = TRY(fields.flag("clock_realtime", false)) ? GapMode::seen : GapMode::hidden;
    DeviceOverrides& devices = load.restore.devices;
    devices.disks = TRY(parse_overrides(fields, "drive_overrides", "drive_id", "path_on_host"));
    devices.taps = TRY(parse_overrides(fields, "network_overrides", "iface_id", "host_dev_name"));
    if (const json* vsock = fields.find("vsock_override")) {
        devices.vsock_socket = TRY(texts_in(*vsock, "vsock_override", {"uds_path"})).front();
    }
    return load;
}

Result<LayerRequest> parse_layer(std::string_view body) {
    const Fields fields = TRY(Fields::parse(body, {"drive_id", "tag", "overlay_path"}));
    LayerRequest layer;
    layer.disk = TRY(fields.text("drive_id"));
    layer.tag = TRY(fields.text("tag"));
    if (fields.has("overlay_path")) {
        layer.into = TRY(fields.text("overlay_path"));
    }
    return layer;
}

Result<std::uint64_t> parse_balloon_update(std::string_view body) {
    const Fields fields = TRY(Fields::parse(body, {"amount_mib"}));
    if (!fields.has("amount_mib")) {
        return bad("field \"amount_mib\" is missing");
    }
    return TRY(fields.number("amount_mib", 0, kMaxBytes >> 20)) << 20;
}

Result<std::uint16_t> parse_balloon_statistics_update(std::string_view body) {
    const Fields fields = TRY(Fields::parse(body, {"stats_polling_interval_s"}));
    if (!fields.has("stats_polling_interval_s")) {
        return bad("field \"stats_polling_interval_s\" is missing");
    }
    return static_cast<std::uint16_t>(TRY(fields.number("stats_polling_interval_s", 0, 0xFFFF)));
}

Result<StopRequest> parse_stop(std::string_view body) {
    StopRequest stop;
    if (body.empty()) {
        return stop;
    }
    const Fields fields = TRY(Fields::parse(body, {"force", "timeout_ms"}));
    stop.force = TRY(fields.flag("force", false));
    const auto timeout = static_cast<std::uint64_t>(stop.timeout.count());
    stop.timeout = std::chrono::milliseconds(TRY(fields.number("timeout_ms", timeout, kMaxTimeoutMs)));
    return stop;
}

Result<DiskResize> parse_drive_size(std::string_view body) {
    const Fields fields = TRY(Fields::parse(body, {"drive_id", "size_bytes"}));
    DiskResize resize;
    resize.id = TRY(fields.text("drive_id"));
    if (fields.has("size_bytes")) {
        resize.bytes = TRY(fields.number("size_bytes", 0, std::numeric_limits<std::int64_t>::max()));
    }
    return resize;
}

Result<TerminalSize> parse_terminal_size(std::string_view body) {
    const Fields fields = TRY(Fields::parse(body, {"columns", "rows"}));
    if (!fields.has("columns") || !fields.has("rows")) {
        return bad("field \"columns\" or \"rows\" is missing");
    }
    return TerminalSize{static_cast<std::uint16_t>(TRY(fields.number("columns", 0, 0xFFFF))),
                        static_cast<std::uint16_t>(TRY(fields.number("rows", 0, 0xFFFF)))};
}

Result<WaitRequest> parse_wait(std::string_view query) {
    WaitRequest wait;
    std::set<std::string, std::less<>> seen;
    while (!query.empty()) {
        const std::size_t end = std::min(query.find('&'), query.size());
        const std::string_view part = query.substr(0, end);
        query.remove_prefix(std::min(end + 1, query.size()));
        const std::size_t equals = std::min(part.find('='), part.size());
        const std::string_view name = part.substr(0, equals);
        const std::string value = TRY(percent_decode(part.substr(std::min(equals + 1, part.size()))));
        if (!seen.emplace(name).second) {
            return bad("the query gives a parameter twice");
        }
        if (name == "for") {
            if (value != "ready" && value != "exit" && value != "serial") {
                return bad("parameter \"for\" is not one of: ready, exit, serial");
            }
            wait.what = value == "ready" ? WaitFor::ready : value == "exit" ? WaitFor::exit : WaitFor::serial;
        } else if (name == "regex") {
            wait.regex = value;
        } else if (name == "timeout_ms") {
            wait.timeout = std::chrono::milliseconds(TRY(query_number(name, value, kMaxTimeoutMs)));
        } else {
            return bad("the query has an unknown parameter; give for, regex and timeout_ms only");
        }
    }
    if (!seen.contains("for")) {
        return bad("parameter \"for\" is missing");
    }
    if (wait.what == WaitFor::serial) {
        TRY(LineMatcher::compile(wait.regex));
    } else if (seen.contains("regex")) {
        return bad("parameter \"regex\" needs for=serial");
    }
    return wait;
}

std::string percent_encode(std::string_view text) {
    constexpr std::string_view kHex = "0123456789ABCDEF";
    std::string out;
    for (const char c : text) {
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                           c == '.' || c == '_' || c == '~';
        if (plain) {
            out.push_back(c);
        } else {
            const auto byte = static_cast<unsigned char>(c);
            out.append({'%', kHex[byte >> 4], kHex[byte & 15]});
        }
    }
    return out;
}

}  // namespace snapvm::api
