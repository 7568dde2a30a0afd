// SPDX-License-Identifier: Apache-2.0
// The HTTP server of each machine, on a unix socket.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "vmm/base/error.h"
#include "vmm/base/unix_socket.h"
#include "vmm/control/service.h"

namespace snapvm::api {

struct ServerLimits {
    /// Each has a thread. For a further connection, one without a request is closed: that which
    /// has been so longest. If all have a request, the further one is answered with 503.
    std::size_t connections = 32;
    /// The most calls that wait (waiting()) at a time. A further one is answered with 503. The
    /// other places are for calls that do not wait, such as a forced stop.
    std::size_t waiting = 24;
    /// How many stops may wait besides.
    std::size_t stops = 4;
    /// The time for one request, from the connection or the last answer until it is complete, and
    /// for sending one answer.
    std::chrono::milliseconds request{10'000};
    /// How long stop() waits for answers and console output in progress.
    std::chrono::milliseconds grace{1'000};
};

/// Answers requests by the table of routes.h. Its threads block all signals. `service` must outlive
/// it.
class Server {
public:
    /// Listens at a path. Clients that connect wait until start(). Fails like Listener::open
    /// (unix_socket.h).
    static Result<Listener> listen(const std::string& socket_path);
    /// Serves the clients of `listener`. Costs an eventfd and a thread. Fails with system.
    static Result<std::unique_ptr<Server>> start(Listener listener, Service& service, ServerLimits limits = {});
    /// Does both. Returns when it listens.
    static Result<std::unique_ptr<Server>> start(const std::string& socket_path, Service& service,
                                                 ServerLimits limits = {});
    /// Calls stop().
    ~Server();

    /// Removes the socket, lets answers in progress finish, and returns when all threads have
    /// ended: usually at once, and after the grace if a client does not read. A running snapshot
    /// finishes first. May be called again; a thread of the server must not call it.
    void stop();

private:
    struct Impl;
    explicit Server(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace snapvm::api
