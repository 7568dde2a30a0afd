// SPDX-License-Identifier: Apache-2.0
// The client of the API, for the CLI and tests.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm::api {

/// A server's reply, of any status.
struct ApiReply {
    unsigned status = 0;
    std::string body;   ///< JSON text
    std::string allow;  ///< the Allow header of status 405

    /// Returns the `fault_message` of an error's body, else the body, or the status if there is no
    /// body.
    [[nodiscard]] std::string fault() const;
};

/// The console as a byte stream in both directions. The descriptor is non-blocking.
struct ConsoleStream {
    UniqueFd fd;
    std::string first;  ///< output that was read with the reply
};

/// One connection. One thread at a time uses it.
class ApiClient {
public:
    /// Connects. Fails with not_found if there is no socket or no listener.
    static Result<ApiClient> connect(const std::string& socket_path);
    ApiClient(ApiClient&&) noexcept;
    ApiClient& operator=(ApiClient&&) noexcept;
    ~ApiClient();

    /// Sends a request and returns the reply, of any status. `target` is path and query,
    /// percent-encoded (percent_encode in bodies.h). Fails with system if the connection breaks, or
    /// if both together take longer than `timeout`.
    Result<ApiReply> request(std::string_view method, std::string_view target, std::string_view body,
                             std::chrono::milliseconds timeout);
    /// The two halves of request(), to receive the reply later. A second send() must follow
    /// receive().
    Status send(std::string_view method, std::string_view target, std::string_view body,
                std::chrono::milliseconds timeout);
    Result<ApiReply> receive(std::chrono::milliseconds timeout);
    /// Turns the connection into the console's stream. If the server refuses, fails with its fault
    /// message.
    Result<ConsoleStream> open_console(std::chrono::milliseconds timeout) &&;

private:
    struct Impl;
    explicit ApiClient(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace snapvm::api
