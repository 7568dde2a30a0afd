// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/routes.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "snapshot/report/inspect.h"
#include "vmm/api/answers.h"
#include "vmm/api/bodies.h"

namespace snapvm::api {
namespace {

ApiAnswer ok(std::string body) { return {200, std::move(body), {}}; }
ApiAnswer fault(unsigned status, std::string_view message) { return {status, fault_json(message), {}}; }
ApiAnswer done_or_fault(const Status& status) { return status ? ApiAnswer{} : fault_answer(status.error()); }

std::string_view path_of(std::string_view target) { return target.substr(0, target.find('?')); }
std::string_view query_of(std::string_view target) {
    const std::size_t mark = target.find('?');
    return mark == std::string_view::npos ? std::string_view() : target.substr(mark + 1);
}

ApiAnswer get_instance(Service& service, const ApiRequest& /*request*/) { return ok(instance_json(service)); }
ApiAnswer get_version(Service& /*service*/, const ApiRequest& /*request*/) { return ok(version_json()); }
ApiAnswer get_machine_config(Service& service, const ApiRequest& /*request*/) {
    const auto config = service.config();
    return config ? ok(machine_config_json(*config)) : fault_answer(config.error());
}
ApiAnswer get_vm_config(Service& service, const ApiRequest& /*request*/) {
    const auto config = service.config();
    const auto disk_bytes = service.disk_bytes();
    if (!config || !disk_bytes) {
        return fault_answer(config ? disk_bytes.error() : config.error());
    }
    return ok(vm_config_json(*config, *disk_bytes));
}
ApiAnswer get_stats(Service& service, const ApiRequest& /*request*/) { return ok(stats_json(service.stats())); }

ApiAnswer patch_vm(Service& service, const ApiRequest& request) {
    const auto state = parse_vm_state(request.body);
    if (!state) {
        return fault_answer(state.error());
    }
    return done_or_fault(*state == VmStateRequest::pause ? service.pause() : service.resume());
}

ApiAnswer put_snapshot_create(Service& service, const ApiRequest& request) {
    const auto create = parse_snapshot_create(request.body);
    if (!create) {
        return fault_answer(create.error());
    }
    if (!create->wait) {
        const Status begun = service.start_snapshot(create->request);
        return begun ? ApiAnswer{202, snapshot_status_json(service.snapshot_status()), {}}
                     : fault_answer(begun.error());
    }
    const auto report = service.snapshot(create->request);
    if (!report) {
        return fault_answer(report.error());
    }
    return create->firecracker ? ApiAnswer{} : ok(to_json(*report));
}

ApiAnswer get_snapshot_status(Service& service, const ApiRequest& /*request*/) {
    return ok(snapshot_status_json(service.snapshot_status()));
}

ApiAnswer put_snapshot_cancel(Service& service, const ApiRequest& /*request*/) {
    return done_or_fault(service.cancel_snapshot());
}

ApiAnswer put_snapshot_detach(Service& service, const ApiRequest& /*request*/) {
    const auto report = service.detach();
    return report ? ok(to_json(*report)) : fault_answer(report.error());
}

ApiAnswer put_drive_layer(Service& service, const ApiRequest& request) {
    const auto layer = parse_layer(request.body);
    if (!layer) {
        return fault_answer(layer.error());
    }
    const auto taken = service.take_layer(*layer);
    return taken ? ok(layer_json(*taken)) : fault_answer(taken.error());
}

ApiAnswer put_snapshot_load(Service& service, const ApiRequest& request) {
    const auto load = parse_snapshot_load(request.body);
    return load ? done_or_fault(service.load(*load)) : fault_answer(load.error());
}

ApiAnswer get_balloon(Service& service, const ApiRequest& /*request*/) {
    const auto size = service.balloon();
    return size ? ok(balloon_json(*size)) : fault_answer(size.error());
}

ApiAnswer patch_balloon(Service& service, const ApiRequest& request) {
    const auto bytes = parse_balloon_update(request.body);
    return bytes ? done_or_fault(service.set_balloon(*bytes)) : fault_answer(bytes.error());
}

ApiAnswer get_balloon_statistics(Service& service, const ApiRequest& /*request*/) {
    const auto report = service.balloon_statistics();
    return report ? ok(balloon_statistics_json(*report)) : fault_answer(report.error());
}

ApiAnswer patch_balloon_statistics(Service& service, const ApiRequest& request) {
    const auto seconds = parse_balloon_statistics_update(request.body);
    return seconds ? done_or_fault(service.set_balloon_polling(*seconds)) : fault_answer(seconds.error());
}

ApiAnswer put_stop(Service& service, const ApiRequest& request) {
    const auto stop = parse_stop(request.body);
    if (!stop) {
        return fault_answer(stop.error());
    }
    const auto outcome = service.stop(*stop);
    return outcome ? ok(outcome_json(*outcome)) : fault_answer(outcome.error());
}

ApiAnswer get_wait(Service& service, const ApiRequest& request) {
    const auto wait = parse_wait(query_of(request.target));
    if (!wait) {
        return fault_answer(wait.error());
    }
    const auto result = service.wait(*wait, request.given_up);
    if (!result) {
        return fault_answer(result.error());
    }
    if (result->has_value()) {
        return ok(wait_json(**result));
    }
    return request.given_up && request.given_up()
               ? fault(503, "the machine's process is ending")
               : fault(408, "the wait for " + std::string(name_of(wait->what)) + " timed out after " +
                                std::to_string(wait->timeout.count()) + " ms");
}

ApiAnswer get_console(Service& service, const ApiRequest& request) {
    if (request.upgrade != kConsoleProtocol) {
        return fault(400,
                     "the console is a stream of bytes; ask for it with \"Connection: Upgrade\" and \"Upgrade: "
                     "snapvm-console\"");
    }
    const auto terminal = service.terminal();
    return terminal ? ApiAnswer{101, {}, {}} : fault_answer(terminal.error());
}

ApiAnswer put_console_size(Service& service, const ApiRequest& request) {
    const auto size = parse_terminal_size(request.body);
    return size ? done_or_fault(service.resize_terminal(*size)) : fault_answer(size.error());
}

ApiAnswer put_drive_size(Service& service, const ApiRequest& request) {
    const auto resize = parse_drive_size(request.body);
    if (!resize) {
        return fault_answer(resize.error());
    }
    const auto bytes = service.resize_disk(*resize);
    return bytes ? ok(drive_size_json(resize->id, *bytes)) : fault_answer(bytes.error());
}

constexpr StateSet kNoMachine{ServiceState::not_started};
constexpr StateSet kLives{ServiceState::running, ServiceState::paused};
constexpr StateSet kHasMachine{ServiceState::running, ServiceState::paused, ServiceState::ended};
constexpr StateSet kAnyState{ServiceState::not_started, ServiceState::running, ServiceState::paused,
                             ServiceState::ended};

constexpr bool kWaits = true;

constexpr std::array<Route, 21> kRoutes = {{
    {"GET", "/", kAnyState, get_instance},
    {"GET", "/version", kAnyState, get_version},
    {"GET", "/machine-config", kHasMachine, get_machine_config},
    {"GET", "/vm/config", kHasMachine, get_vm_config},
    {"PATCH", "/vm", kLives, patch_vm},
    {"PUT", "/drives/size", kLives, put_drive_size},
    {"PUT", "/snapshot/create", kLives, put_snapshot_create},
    {"PUT", "/snapshot/load", kNoMachine, put_snapshot_load},
    {"GET", "/snapshot/status", kAnyState, get_snapshot_status},
    {"PUT", "/snapshot/cancel", kHasMachine, put_snapshot_cancel},
    {"PUT", "/snapshot/detach", kLives, put_snapshot_detach},
    {"PUT", "/drives/layers", kLives, put_drive_layer},
    {"GET", "/balloon", kHasMachine, get_balloon},
    {"PATCH", "/balloon", kLives, patch_balloon},
    {"GET", "/balloon/statistics", kHasMachine, get_balloon_statistics},
    {"PATCH", "/balloon/statistics", kLives, patch_balloon_statistics},
    {"GET", "/stats", kAnyState, get_stats},
    {"PUT", "/stop", kAnyState, put_stop},
    {"GET", "/wait", kAnyState, get_wait, kWaits},
    {"GET", "/console", kHasMachine, get_console, kWaits},
    {"PUT", "/console/size", kLives, put_console_size},
}};

ApiAnswer answer_in_state(const Route& route, Service& service, const ApiRequest& request) {
    // A stop or a wait must not wait for the machine's state, which a pause under way holds.
    const ServiceState state = route.states == kAnyState ? ServiceState::not_started : service.state();
    return route.states.has(state) ? route.answer(service, request)
                                   : fault_answer(wrong_state(state, service.stats().outcome));
}

}  // namespace

std::span<const Route> routes() { return kRoutes; }

Waiting waiting(const ApiRequest& request) {
    const auto asked = std::ranges::find_if(kRoutes, [&](const Route& route) {
        return route.method == request.method && route.path == path_of(request.target);
    });
    if (asked == kRoutes.end() || asked->answer != put_stop) {
        return asked != kRoutes.end() && asked->waits ? Waiting::yes : Waiting::no;
    }
    const auto stop = parse_stop(request.body);
    return stop && !stop->force ? Waiting::for_the_end : Waiting::no;
}

ApiAnswer answer_request(Service& service, const ApiRequest& request) {
    std::string allow;
    for (const Route& route : kRoutes) {
        if (route.path != path_of(request.target)) {
            continue;
        }
        if (route.method == request.method) {
            return answer_in_state(route, service, request);
        }
        allow.append(allow.empty() ? "" : ", ").append(route.method);
    }
    if (allow.empty()) {
        return fault(404, "there is no such path");
    }
    ApiAnswer answer = fault(405, "this path takes " + allow + " only");
    answer.allow = std::move(allow);
    return answer;
}

ApiAnswer fault_answer(const Error& error) {
    // A path that cannot be opened is the caller's mistake, although it is a failed system call.
    constexpr std::array kCallers = {ENOENT,       EACCES, EPERM, EISDIR, ENOTDIR, EROFS,
                                     ENAMETOOLONG, ELOOP,  ENXIO, EBUSY,  ETXTBSY};
    const bool ours = error.kind() == ErrorKind::system && std::ranges::find(kCallers, error.code()) == kCallers.end();
    return fault(ours ? 500 : 400, error.message());
}

}  // namespace snapvm::api
