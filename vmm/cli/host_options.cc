// SPDX-License-Identifier: Apache-2.0
#include "vmm/cli/host_options.h"

#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/device_options.h"

namespace snapvm::cli {
namespace {

constexpr std::string_view kFile = "file=";

}  // namespace

Result<LineTarget> parse_line_target(const std::string& text, std::string_view line) {
    if (text == "stdio") {
        return LineTarget{LineTarget::Kind::stdio, {}};
    }
    if (text == "none") {
        return LineTarget{LineTarget::Kind::none, {}};
    }
    if (text.starts_with(kFile) && text.size() > kFile.size()) {
        return LineTarget{LineTarget::Kind::file, text.substr(kFile.size())};
    }
    return fail(ErrorKind::usage, "\"" + text + "\" is not a place for " + std::string(line),
                "write stdio, file=PATH or none");
}

void HostOptions::add_to(Command command) {
    command.section("On the host");
    command.option("--name NAME", name, "the machine's name (default: vm-PID)");
    command.option("--api-socket PATH", api_socket,
                   "one more path of the API socket, beside the one in the run folder");
    command.option(
        "--serial stdio|file=PATH|none",
        [this](const std::string& text) {
            serial = text;
            serial_given = true;
        },
        "the guest's serial port: stdio, file=PATH or none (default: stdio; with -d or --console stdio none)");
    command.option(
        "--console stdio|file=PATH|none",
        [this](const std::string& text) {
            console = text;
            console_given = true;
        },
        "the guest's virtio console: stdio, file=PATH or none (default: a new machine has none)");
    command.option("--timeout TIME", timeout, "end the run after this long (60s, 500ms, 2m) with exit code 124");
    command.option("--dirty", dirty, {"auto", "log", "ring"},
                   "how KVM tracks the guest's writes for snapshots (default: auto, the log if this KVM has it)");
    command.flag("-d,--detach", detach, "return as soon as the machine runs; it goes on in a process of its own");
}

HostSetup HostOptions::setup() const {
    return {.dirty = dirty == "ring"  ? DirtyTracking::ring
                     : dirty == "log" ? DirtyTracking::log
                                      : DirtyTracking::automatic};
}

Result<std::optional<std::chrono::microseconds>> HostOptions::parsed_timeout() const {
    if (timeout.empty()) {
        return std::optional<std::chrono::microseconds>();
    }
    const std::chrono::microseconds duration = TRY(parse_duration(timeout));
    constexpr auto kLongest = std::chrono::years(1);
    if (duration.count() == 0 || duration > kLongest) {
        return fail(ErrorKind::usage, "--timeout " + timeout + " is not a time to wait",
                    "give more than 0 and at most 525600m (a year)");
    }
    return std::optional(duration);
}

Result<LineTarget> HostOptions::serial_target() const {
    const bool console_has_stdio = console == "stdio" || virtio_terminal;
    LineTarget target =
        TRY(parse_line_target(serial_given || (!detach && !console_has_stdio) ? serial : "none", "the serial port"));
    if (detach && target.kind == LineTarget::Kind::stdio) {
        return fail(ErrorKind::usage, "a detached machine has no stdin and stdout",
                    "use --serial file=PATH, or snapvm console");
    }
    if (console_has_stdio && target.kind == LineTarget::Kind::stdio) {
        return fail(ErrorKind::usage, "the serial port and the virtio console cannot both be on stdin and stdout",
                    "use file=PATH or none for one of them");
    }
    return target;
}

Result<LineTarget> HostOptions::console_target() const {
    LineTarget target = TRY(parse_line_target(console, "the virtio console"));
    if (detach && target.kind == LineTarget::Kind::stdio) {
        return fail(ErrorKind::usage, "a detached machine has no stdin and stdout",
                    "use --console file=PATH, or snapvm console");
    }
    return target;
}

HostOptions HostOptions::for_clone(unsigned clone) const {
    HostOptions own = *this;
    for (std::string* text : {&own.name, &own.api_socket, &own.serial, &own.console}) {
        *text = cli::for_clone(std::move(*text), clone);
    }
    return own;
}

Status HostOptions::check_clones(unsigned count) const {
    struct Path {
        const char* option;
        const std::string& text;
        bool given;
    };
    for (const Path& path :
         {Path{"--api-socket", api_socket, !api_socket.empty()}, Path{"--serial", serial, serial.starts_with(kFile)},
          Path{"--console", console, console.starts_with(kFile)}}) {
        if (path.given && cli::for_clone(path.text, 0) == cli::for_clone(path.text, 1)) {
            return fail(
                ErrorKind::usage, std::to_string(count) + " machines cannot share " + path.option + " " + path.text,
                "give each its own, with {i} for its number: " + std::string(path.option) + " '" + path.text + "-{i}'");
        }
    }
    return {};
}

}  // namespace snapvm::cli
