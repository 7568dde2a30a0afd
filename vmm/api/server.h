// SPDX-License-Identifier: Apache-2.0
// The HTTP server that each machine has, on a unix socket.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "vmm/api/service.h"
#include "vmm/base/error.h"

namespace snapvm::api {

struct ServerLimits {
    std::size_t connections = 32;  ///< one thread each; one more is answered 503
    /// A request must be complete this long after the connection was made or the one before was answered, and an answer taken as
    /// quickly.
    std::chrono::milliseconds request{10'000};
    /// What stop() grants answers and console output that are on their way.
    std::chrono::milliseconds grace{1'000};
};

/// Answers as routes.h says. Threads block all signals. `service` must outlive the server.
class Server {
public:
    /// Listens when it returns. Costs a socket, an eventfd and a thread. Errors: unix_socket.h, and system.
    static Result<std::unique_ptr<Server>> start(const std::string& socket_path, Service& service, ServerLimits limits = {});
    /// stop().
    ~Server();

    /// Removes the socket, lets answers under way finish, and returns when no thread is left: at once as a rule, after the grace
    /// when a client does not read. A snapshot that is being written is finished first. Idempotent; not from a thread of the
    /// server.
    void stop();

private:
    struct Impl;
    explicit Server(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace snapvm::api
