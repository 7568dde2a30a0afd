// SPDX-License-Identifier: Apache-2.0
// The other end of the API: what the CLI, tests and embedders speak to a machine with.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "vmm/base/error.h"
#include "vmm/base/fd.h"

namespace snapvm::api {

/// What the server said, whatever its status.
struct ApiReply {
    unsigned status = 0;
    std::string body;   ///< JSON text
    std::string allow;  ///< the Allow header of a 405

    /// The `fault_message` of an error's body, else the body itself.
    [[nodiscard]] std::string fault() const;
};

/// The console as a byte stream, both ways. The descriptor does not block.
struct ConsoleStream {
    UniqueFd fd;
    std::string first;  ///< output that has been read already
};

/// One connection. One thread at a time.
class ApiClient {
public:
    /// not_found: no socket there, or nobody answers.
    static Result<ApiClient> connect(const std::string& socket_path);
    ApiClient(ApiClient&&) noexcept;
    ApiClient& operator=(ApiClient&&) noexcept;
    ~ApiClient();

    /// `target`: path and query, percent-encoded (bodies.h has percent_encode). An error when the connection breaks or the whole
    /// takes longer than `timeout`; an answer of any status is a success.
    Result<ApiReply> request(std::string_view method, std::string_view target, std::string_view body,
                             std::chrono::milliseconds timeout);
    /// The two halves of it, to ask now and hear later. The next send() is after receive() only.
    Status send(std::string_view method, std::string_view target, std::string_view body, std::chrono::milliseconds timeout);
    Result<ApiReply> receive(std::chrono::milliseconds timeout);
    /// Makes the connection the console's. The fault message of a server that refuses is the error.
    Result<ConsoleStream> open_console(std::chrono::milliseconds timeout) &&;

private:
    struct Impl;
    explicit ApiClient(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace snapvm::api
