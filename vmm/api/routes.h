// SPDX-License-Identifier: Apache-2.0
// Which paths there are and what each does, apart from sockets: a request in, an answer out.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "vmm/api/service.h"

namespace snapvm::api {

/// The protocol that GET /console switches to.
inline constexpr std::string_view kConsoleProtocol = "snapvm-console";

struct ApiRequest {
    std::string_view method;
    std::string_view target;   ///< path and query
    std::string_view body;
    std::string_view upgrade;  ///< the Upgrade header, empty where there is none
    GivenUp given_up;          ///< the client is gone, or the server is ending
};

struct ApiAnswer {
    unsigned status = 204;     ///< 101: switch to the console's byte stream
    std::string body;          ///< JSON, empty with 204 and 101
    std::string allow;         ///< with 405: the methods that the path has
};

/// One line of the table. The server dispatches on it, and a test holds openapi.json against it.
struct Route {
    std::string_view method;
    std::string_view path;
    ApiAnswer (*answer)(Service& service, const ApiRequest& request);
};
[[nodiscard]] std::span<const Route> routes();

/// The route's answer; 404 for a path that is not there, 405 for a method that the path has not.
[[nodiscard]] ApiAnswer answer_request(Service& service, const ApiRequest& request);

/// The answer to a failed request: 500 when the host failed us, otherwise 400, as Firecracker has it for all that the caller can
/// mend.
[[nodiscard]] ApiAnswer fault_answer(const Error& error);

}  // namespace snapvm::api
