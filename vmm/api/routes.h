// SPDX-License-Identifier: Apache-2.0
// The API's paths and what each does, without sockets: a request gives an answer.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "vmm/control/service.h"

namespace snapvm::api {

/// The protocol that GET /console switches to.
inline constexpr std::string_view kConsoleProtocol = "snapvm-console";

struct ApiRequest {
    std::string_view method;
    std::string_view target;   ///< path and query
    std::string_view body;
    std::string_view upgrade;  ///< the Upgrade header, or empty
    GivenUp given_up;          ///< true if the client is gone, or the server is ending
};

struct ApiAnswer {
    unsigned status = 204;     ///< 101: switch to the console's byte stream
    std::string body;          ///< JSON, empty with 204 and 101
    std::string allow;         ///< with 405: the methods that the path has
};

/// A set of an instance's states.
class StateSet {
public:
    constexpr StateSet(std::initializer_list<ServiceState> states) {
        for (const ServiceState state : states) {
            bits_ = static_cast<std::uint8_t>(bits_ | bit(state));
        }
    }
    [[nodiscard]] constexpr bool has(ServiceState state) const { return (bits_ & bit(state)) != 0; }
    bool operator==(const StateSet&) const = default;

private:
    static constexpr unsigned bit(ServiceState state) { return 1U << static_cast<unsigned>(state); }
    std::uint8_t bits_ = 0;
};

/// One row of the table. The server dispatches on it, and a test compares openapi.json with it.
struct Route {
    std::string_view method;
    std::string_view path;
    StateSet states;  ///< in another state the request is refused
    ApiAnswer (*answer)(Service& service, const ApiRequest& request);
    /// The answer may take as long as the guest or a disk does.
    bool waits = false;
};
[[nodiscard]] std::span<const Route> routes();

/// Whether an answer may take long. A server limits how many of these calls are under way.
enum class Waiting : std::uint8_t {
    no,
    yes,          ///< the route waits
    for_the_end,  ///< a stop that is not forced
};
[[nodiscard]] Waiting waiting(const ApiRequest& request);

/// Returns the route's answer: 404 for an unknown path, 405 for a method that the path does not
/// have, 400 with the line of wrong_state() if the instance is in none of the route's states.
[[nodiscard]] ApiAnswer answer_request(Service& service, const ApiRequest& request);

/// Returns the answer to a failed request: 500 if the host failed, else 400, which Firecracker uses
/// for all that a caller can correct.
[[nodiscard]] ApiAnswer fault_answer(const Error& error);

}  // namespace snapvm::api
