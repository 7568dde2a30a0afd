// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/routes.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "snapshot/inspect.h"
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
ApiAnswer get_machine_config(Service& service, const ApiRequest& /*request*/) { return ok(machine_config_json(service.config())); }
ApiAnswer get_vm_config(Service& service, const ApiRequest& /*request*/) { return ok(vm_config_json(service.config())); }
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
        return begun ? ApiAnswer{202, snapshot_status_json(service.snapshot_status()), {}} : fault_answer(begun.error());
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

ApiAnswer put_snapshot_cancel(Service& service, const ApiRequest& /*request*/) { return done_or_fault(service.cancel_snapshot()); }

ApiAnswer put_snapshot_detach(Service& service, const ApiRequest& /*request*/) {
    const auto report = service.detach();
    return report ? ok(to_json(*report)) : fault_answer(report.error());
}

ApiAnswer put_snapshot_load(Service& /*service*/, const ApiRequest& request) {
    if (const Status well_formed = check_snapshot_load(request.body); !well_formed) {
        return fault_answer(well_formed.error());
    }
    return fault(400, "this process has a machine already, and a snapshot is loaded into a new one; use `snapvm restore`");
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

ApiAnswer get_console(Service& /*service*/, const ApiRequest& request) {
    if (request.upgrade != kConsoleProtocol) {
        return fault(400, "the console is a byte stream; ask for it with \"Connection: Upgrade\" and \"Upgrade: snapvm-console\"");
    }
    return {101, {}, {}};
}

ApiAnswer put_console_size(Service& service, const ApiRequest& request) {
    const auto size = parse_terminal_size(request.body);
    if (!size) {
        return fault_answer(size.error());
    }
    service.resize_terminal(*size);
    return {};
}

constexpr std::array<Route, 19> kRoutes = {{
    {"GET", "/", get_instance},
    {"GET", "/version", get_version},
    {"GET", "/machine-config", get_machine_config},
    {"GET", "/vm/config", get_vm_config},
    {"PATCH", "/vm", patch_vm},
    {"PUT", "/snapshot/create", put_snapshot_create},
    {"PUT", "/snapshot/load", put_snapshot_load},
    {"GET", "/snapshot/status", get_snapshot_status},
    {"PUT", "/snapshot/cancel", put_snapshot_cancel},
    {"PUT", "/snapshot/detach", put_snapshot_detach},
    {"GET", "/balloon", get_balloon},
    {"PATCH", "/balloon", patch_balloon},
    {"GET", "/balloon/statistics", get_balloon_statistics},
    {"PATCH", "/balloon/statistics", patch_balloon_statistics},
    {"GET", "/stats", get_stats},
    {"PUT", "/stop", put_stop},
    {"GET", "/wait", get_wait},
    {"GET", "/console", get_console},
    {"PUT", "/console/size", put_console_size},
}};

}  // namespace

std::span<const Route> routes() { return kRoutes; }

ApiAnswer answer_request(Service& service, const ApiRequest& request) {
    std::string allow;
    for (const Route& route : kRoutes) {
        if (route.path != path_of(request.target)) {
            continue;
        }
        if (route.method == request.method) {
            return route.answer(service, request);
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
    // A path that cannot be opened is the caller's mistake although it shows as a failed system call.
    constexpr std::array kCallers = {ENOENT, EACCES, EPERM, EISDIR, ENOTDIR, EROFS, ENAMETOOLONG, ELOOP, ENXIO, EBUSY, ETXTBSY};
    const bool ours = error.kind() == ErrorKind::system && std::ranges::find(kCallers, error.code()) == kCallers.end();
    return fault(ours ? 500 : 400, error.message());
}

}  // namespace snapvm::api
