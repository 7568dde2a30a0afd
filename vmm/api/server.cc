// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <condition_variable>
#include <list>
#include <mutex>
#include <thread>

#include "vmm/api/answers.h"
#include "vmm/api/bodies.h"
#include "vmm/api/console_relay.h"
#include "vmm/api/deadline_stream.h"
#include "vmm/api/routes.h"
#include "vmm/base/thread.h"
#include "vmm/base/try.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::api {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;
using Clock = std::chrono::steady_clock;
using ErrorCode = boost::system::error_code;

constexpr std::uint32_t kMaxHeader = 8 << 10;
constexpr std::size_t kDrainAtMost = 1 << 20;

http::response<http::string_body> make_response(const ApiAnswer& answer, unsigned version, bool keep_alive) {
    http::response<http::string_body> response;
    response.version(version);
    response.result(answer.status);
    response.set(http::field::server, "snapvm");
    if (!answer.allow.empty()) {
        response.set(http::field::allow, answer.allow);
    }
    if (answer.status == 101) {
        response.set(http::field::connection, "upgrade");
        response.set(http::field::upgrade, boost::string_view(kConsoleProtocol.data(), kConsoleProtocol.size()));
        return response;
    }
    if (!answer.body.empty()) {
        response.set(http::field::content_type, "application/json");
        response.body() = answer.body;
    }
    response.keep_alive(keep_alive);
    if (answer.status != 204) {
        response.prepare_payload();
    }
    return response;
}

// Returns the answer to a request that cannot be read. Status 0: the client is gone, and gets none.
ApiAnswer answer_to_broken(const ErrorCode& error) {
    if (error == http::error::body_limit) {
        return {413, fault_json("the body is larger than " + std::to_string(kMaxBody >> 10) + " KiB"), {}};
    }
    if (error == http::error::header_limit) {
        return {431, fault_json("the header is larger than " + std::to_string(kMaxHeader >> 10) + " KiB"), {}};
    }
    if (error == boost::asio::error::timed_out) {
        return {408, fault_json("the request did not arrive in time"), {}};
    }
    if (error == http::error::end_of_stream || error.category() == boost::system::system_category() ||
        error.category() == boost::asio::error::get_misc_category()) {
        return {0, {}, {}};
    }
    return {400, fault_json("this is not an HTTP request: " + error.message()), {}};
}

std::string_view view(boost::beast::string_view text) { return {text.data(), text.size()}; }

// Returns whether the client has sent something that the connection's thread has not read.
bool has_unread(int fd) {
    char next = 0;
    return ::recv(fd, &next, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

}  // namespace

struct Server::Impl {
    enum class Phase : std::uint8_t {
        reads,   // waits for a request, or for the rest of one
        works,   // has a call that does not wait
        waits,   // has a call that waits
        writes,  // writes an answer, for which the client may take its time
        over,    // made room for another, or its thread is about to end
    };
    struct Connection {
        explicit Connection(UniqueFd socket) : fd(std::move(socket)) {}
        UniqueFd fd;
        std::thread thread;
        Phase phase = Phase::reads;
        Clock::time_point since = Clock::now();  // of the phase
        bool done = false;                       // its thread is about to end
    };

    Impl(Service& the_service, Listener the_listener, UniqueFd the_wake, ServerLimits the_limits)
        : service(the_service), listener(std::move(the_listener)), wake(std::move(the_wake)), limits(the_limits) {}

    void accept_loop();
    void admit(UniqueFd fd);
    void serve(Connection& connection);
    bool serve_one(Connection& connection, DeadlineStream& stream, beast::flat_buffer& buffer);
    bool enter(Connection& connection, Phase phase);
    bool may_wait(Connection& connection, Waiting kind);
    bool make_room();
    void reap();

    Service& service;
    Listener listener;
    UniqueFd wake;
    ServerLimits limits;
    std::thread acceptor;
    std::atomic<bool> stopping = false;

    std::mutex mutex;  // guards the list and its members; only a connection's own thread reads its fd without it
    std::condition_variable changed;
    std::list<Connection> connections;
};

void Server::Impl::accept_loop() {
    while (!stopping) {
        std::array<pollfd, 2> entries = {{{listener.fd(), POLLIN, 0}, {wake.get(), POLLIN, 0}}};
        ::poll(entries.data(), entries.size(), -1);
        if (stopping) {
            return;
        }
        const int fd = ::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC);
        if (fd >= 0) {
            admit(UniqueFd(fd));
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            // The connection stays in the queue, so poll would return again at once.
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
    }
}

// Joins the threads of connections that have ended.
void Server::Impl::reap() {
    std::list<Connection> over;
    {
        const std::lock_guard lock(mutex);
        for (auto at = connections.begin(); at != connections.end();) {
            const auto next = std::next(at);
            if (at->done) {
                over.splice(over.end(), connections, at);
            }
            at = next;
        }
    }
    for (Connection& connection : over) {
        connection.thread.join();
    }
}

// Returns whether there is room for one more connection. If it must, it closes the one that has
// kept its place longest without a call; one whose request has arrived comes last.
bool Server::Impl::make_room() {
    const auto over = static_cast<std::size_t>(std::ranges::count(connections, Phase::over, &Connection::phase));
    if (connections.size() - over < limits.connections) {
        return true;
    }
    Connection* chosen = nullptr;
    const auto rank = [](const Connection& connection) {
        return std::pair(connection.phase == Phase::reads && has_unread(connection.fd.get()), connection.since);
    };
    for (Connection& connection : connections) {
        if ((connection.phase == Phase::reads || connection.phase == Phase::writes) &&
            (chosen == nullptr || rank(connection) < rank(*chosen))) {
            chosen = &connection;
        }
    }
    if (chosen == nullptr) {
        return false;
    }
    chosen->phase = Phase::over;
    ::shutdown(chosen->fd.get(), SHUT_RDWR);
    return true;
}

bool Server::Impl::may_wait(Connection& connection, Waiting kind) {
    const std::lock_guard lock(mutex);
    const auto waiting = static_cast<std::size_t>(std::ranges::count(connections, Phase::waits, &Connection::phase));
    if (connection.phase == Phase::over ||
        waiting >= limits.waiting + (kind == Waiting::for_the_end ? limits.stops : 0)) {
        return false;
    }
    connection.phase = Phase::waits;
    return true;
}

void Server::Impl::admit(UniqueFd fd) {
    reap();
    const std::lock_guard lock(mutex);
    if (make_room()) {
        Connection& connection = connections.emplace_back(std::move(fd));
        auto thread = start_thread(ThreadRole::api, [this, &connection] { serve(connection); });
        if (thread) {
            connection.thread = *std::move(thread);
            return;
        }
        fd = std::move(connection.fd);
        connections.pop_back();
    }
    const std::string body = fault_json("too many connections are open; try again when one has ended");
    const std::string text =
        "HTTP/1.1 503 Service Unavailable\r\nServer: snapvm\r\nContent-Type: application/json\r\nConnection: close\r\n"
        "Content-Length: " +
        std::to_string(body.size()) + "\r\n\r\n" + body;
    // An empty socket buffer has room for it; if not, the client gets no answer.
    (void)::send(fd.get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

// Returns false if the connection has made room for another, and must not go on.
bool Server::Impl::enter(Connection& connection, Phase phase) {
    const std::lock_guard lock(mutex);
    if (connection.phase == Phase::over) {
        return false;
    }
    connection.phase = phase;
    connection.since = Clock::now();
    return phase != Phase::reads || !stopping;
}

void Server::Impl::serve(Connection& connection) {
    try {
        DeadlineStream stream(connection.fd.get());
        beast::flat_buffer buffer(kMaxHeader + kMaxBody);
        while (enter(connection, Phase::reads) && serve_one(connection, stream, buffer)) {
        }
    } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch)
        // Out of memory: only this connection ends, not the machine.
    }
    // The descriptor is still open here, so stop() cannot shut down another one that got its
    // number.
    ::shutdown(connection.fd.get(), SHUT_RDWR);
    const std::lock_guard lock(mutex);
    connection.fd.reset();
    connection.phase = Phase::over;
    connection.done = true;
    changed.notify_all();
}

// Handles one request. Returns true if another may follow.
bool Server::Impl::serve_one(Connection& connection, DeadlineStream& stream, beast::flat_buffer& buffer) {
    http::request_parser<http::string_body> parser;
    parser.header_limit(kMaxHeader);
    parser.body_limit(kMaxBody);
    ErrorCode error;
    ErrorCode ignored;
    stream.expires_at(Clock::now() + limits.request);
    http::read_header(stream, buffer, parser, error);
    if (!error && beast::iequals(parser.get()[http::field::expect], "100-continue")) {
        http::response<http::empty_body> proceed(http::status::continue_, 11);
        http::write(stream, proceed, ignored);
    }
    if (!error) {
        http::read(stream, buffer, parser, error);
    }
    if (error) {
        const ApiAnswer answer = answer_to_broken(error);
        // A connection without a request gets no answer.
        if (answer.status != 0 && (parser.got_some() || error != boost::asio::error::timed_out) &&
            enter(connection, Phase::writes)) {
            stream.expires_at(Clock::now() + limits.request);
            http::write(stream, make_response(answer, 11, false), ignored);
            // Nothing follows this answer. What the client still sends is read and dropped, so that
            // the client gets to read the answer.
            ::shutdown(connection.fd.get(), SHUT_WR);
            enter(connection, Phase::reads);
            std::array<char, 4096> rest;
            stream.expires_at(Clock::now() + std::min<Clock::duration>(limits.request, std::chrono::seconds(1)));
            for (std::size_t drained = 0; drained < kDrainAtMost && !stopping;) {
                drained += stream.read_some(boost::asio::buffer(rest), error);
                if (error) {
                    break;
                }
            }
        }
        return false;
    }
    if (!enter(connection, Phase::works)) {
        return false;  // the connection is closed, so the call is not made
    }
    const auto& message = parser.get();
    const auto gone = [this, fd = connection.fd.get()] {
        pollfd entry{fd, 0, 0};
        return stopping || ::poll(&entry, 1, 0) > 0;
    };
    const ApiRequest request{view(message.method_string()), view(message.target()), message.body(),
                             view(message[http::field::upgrade]), gone};
    const Waiting kind = waiting(request);
    const ApiAnswer answer = kind == Waiting::no || may_wait(connection, kind)
                                 ? answer_request(service, request)
                                 : ApiAnswer{503, fault_json("too many clients wait already; try again later"), {}};
    const bool keep_alive = message.keep_alive() && !stopping;
    auto response = make_response(answer, message.version(), keep_alive);
    stream.expires_at(Clock::now() + limits.request);
    if (answer.status != 101) {  // a console keeps its place among those that wait
        enter(connection, Phase::writes);
    }
    http::write(stream, response, error);
    if (error) {
        return false;
    }
    if (answer.status == 101) {
        const std::string early = beast::buffers_to_string(buffer.data());
        relay_console(service, connection.fd.get(), early, [this] { return stopping.load(); });
        return false;
    }
    return keep_alive;
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<Listener> Server::listen(const std::string& socket_path) {
    return Listener::open(socket_path, "another path for the API socket");
}

Result<std::unique_ptr<Server>> Server::start(const std::string& socket_path, Service& service, ServerLimits limits) {
    return start(TRY(listen(socket_path)), service, limits);
}

Result<std::unique_ptr<Server>> Server::start(Listener listener, Service& service, ServerLimits limits) {
    UniqueFd wake(::eventfd(0, EFD_CLOEXEC));
    if (!wake.valid()) {
        return fail(Error::system("eventfd", "API server", errno));
    }
    auto impl = std::make_unique<Impl>(service, std::move(listener), std::move(wake), limits);
    impl->acceptor = TRY(start_thread(ThreadRole::api, [state = impl.get()] { state->accept_loop(); }));
    return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::~Server() { stop(); }

void Server::stop() {
    Impl& state = *impl_;
    if (!state.acceptor.joinable()) {
        return;
    }
    state.stopping = true;
    (void)::eventfd_write(state.wake.get(), 1);
    state.acceptor.join();
    state.listener.close();
    const auto cut_off = [&](bool idle_only) {
        for (Impl::Connection& connection : state.connections) {
            if (connection.fd.valid() && (connection.phase == Impl::Phase::reads || !idle_only)) {
                ::shutdown(connection.fd.get(), SHUT_RDWR);
            }
        }
    };
    std::unique_lock lock(state.mutex);
    cut_off(true);
    const auto all_done = [&] {
        return std::ranges::all_of(state.connections, [](const auto& connection) { return connection.done; });
    };
    if (!state.changed.wait_for(lock, state.limits.grace, all_done)) {
        cut_off(false);
    }
    lock.unlock();
    for (Impl::Connection& connection : state.connections) {
        connection.thread.join();
    }
    state.connections.clear();
}

}  // namespace snapvm::api
