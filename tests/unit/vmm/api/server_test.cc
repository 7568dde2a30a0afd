// SPDX-License-Identifier: Apache-2.0
// The server's sockets and threads: limits, rude clients, the end.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <future>

#include "tests/unit/vmm/api/fake_service.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::api::test {
namespace {

using ApiServer = ServerTest;
using Clock = std::chrono::steady_clock;

// Bytes as they come, no HTTP.
class RawClient {
public:
    explicit RawClient(const std::string& path) : fd_(*connect_unix(path)) {}
    bool send(std::string_view text) {
        while (!text.empty()) {
            pollfd entry{fd_.get(), POLLOUT, 0};
            ::poll(&entry, 1, 10'000);
            const ssize_t sent = ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent <= 0) {
                return false;
            }
            text.remove_prefix(static_cast<std::size_t>(sent));
        }
        return true;
    }
    /// Returns all bytes until the server closes the connection or, with `until`, up to that text.
    std::string read(std::string_view until = {}) {
        std::string all;
        while (until.empty() || all.find(until) == std::string::npos) {
            pollfd entry{fd_.get(), POLLIN, 0};
            std::array<char, 4096> chunk;
            const ssize_t got = ::poll(&entry, 1, 20'000) > 0 ? ::recv(fd_.get(), chunk.data(), chunk.size(), 0) : -1;
            if (got <= 0) {
                break;
            }
            all.append(chunk.data(), static_cast<std::size_t>(got));
        }
        return all;
    }
    [[nodiscard]] int fd() const { return fd_.get(); }

private:
    UniqueFd fd_;
};

TEST_F(ApiServer, SocketIsPrivateWhateverTheUmask) {
    const mode_t before = ::umask(0);
    start();
    ::umask(before);
    struct stat info{};
    ASSERT_EQ(::stat(socket.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777U, 0600U);
    server->stop();
    EXPECT_NE(::stat(socket.c_str(), &info), 0) << "stop removes it";
}

TEST_F(ApiServer, PathTooLongIsRefusedWithAdvice) {
    const auto started = Server::start(folder / std::string(200, 'x'), service);
    ASSERT_FALSE(started.has_value());
    EXPECT_EQ(started.error().kind(), ErrorKind::usage);
    EXPECT_NE(started.error().message().find("107"), std::string::npos) << started.error().message();
    EXPECT_FALSE(ApiClient::connect(folder / std::string(200, 'x')).has_value());
}

TEST_F(ApiServer, TakesAStaleSocketOverButNoOther) {
    {
        // A killed process leaves a bound path on which no process listens.
        sockaddr_un address = *unix_address(socket);
        const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM, 0));
        ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    }
    start();
    const auto second = Server::start(socket, service);
    ASSERT_FALSE(second.has_value());
    EXPECT_EQ(second.error().kind(), ErrorKind::busy);
    EXPECT_EQ(ask("GET", "/").status, 200U) << "the first one is unharmed";

    const std::string file = folder / "file";
    ASSERT_TRUE(open_file(file, O_CREAT | O_WRONLY, 0600).has_value());
    const auto over_file = Server::start(file, service);
    ASSERT_FALSE(over_file.has_value());
    EXPECT_EQ(over_file.error().kind(), ErrorKind::usage);
    EXPECT_TRUE(std::filesystem::exists(file));
}

TEST_F(ApiServer, NobodyThereIsNotFound) {
    const auto missing = ApiClient::connect(folder / "none.sock");
    ASSERT_FALSE(missing.has_value());
    EXPECT_EQ(missing.error().kind(), ErrorKind::not_found);
}

TEST_F(ApiServer, KeepsAConnectionForManyRequests) {
    start();
    ApiClient one = client();
    for (int i = 0; i < 50; ++i) {
        const auto reply = one.request("GET", "/", {}, 10s);
        ASSERT_TRUE(reply.has_value()) << reply.error().message();
        EXPECT_EQ(reply->status, 200U);
        EXPECT_EQ(one.request("PATCH", "/vm", "{}", 10s)->status, 400U)
            << "a refused request does not cost the connection";
    }
}

TEST_F(ApiServer, AnswersSeveralClientsAtOnce) {
    start();
    std::vector<std::future<unsigned>> answers;
    for (int i = 0; i < 8; ++i) {
        answers.push_back(std::async(std::launch::async,
                                     [&] { return client().request("GET", "/wait?for=ready", {}, 20s)->status; }));
    }
    EXPECT_TRUE(eventually([&] { return service.waiting == 8; }));
    EXPECT_EQ(ask("GET", "/").status, 200U) << "waits hold up nobody";
    service.ready = true;
    for (auto& answer : answers) {
        EXPECT_EQ(answer.get(), 200U);
    }
}

TEST_F(ApiServer, TheClientThatHasBeenIdleLongestMakesRoom) {
    start({.connections = 2, .waiting = 1, .request = 10s, .grace = 1s});
    RawClient oldest(socket);
    ASSERT_TRUE(oldest.send("GET / HTTP/1.1\r\n\r\n"));
    EXPECT_TRUE(oldest.read("}").starts_with("HTTP/1.1 200 "));
    RawClient waits(socket);
    waits.send("GET /wait?for=ready&timeout_ms=86400000 HTTP/1.1\r\n\r\n");
    EXPECT_TRUE(eventually([&] { return service.waiting == 1; }));
    EXPECT_EQ(ask("GET", "/").status, 200U);
    EXPECT_EQ(oldest.read(), "") << "it is closed";
    for (int i = 0; i < 10; ++i) {
        const RawClient idle(socket);
        EXPECT_EQ(ask("GET", "/").status, 200U);
    }
    service.ready = true;
    EXPECT_TRUE(waits.read("}").starts_with("HTTP/1.1 200 ")) << "a client with a request keeps its place";
}

TEST_F(ApiServer, ClientsThatWaitLeaveRoomForAStop) {
    start({.connections = 4, .waiting = 3, .request = 10s, .grace = 1s});
    std::vector<std::unique_ptr<RawClient>> clients;
    for (int i = 0; i < 3; ++i) {
        clients.push_back(std::make_unique<RawClient>(socket));
        clients.back()->send("GET /wait?for=exit&timeout_ms=86400000 HTTP/1.1\r\n\r\n");
    }
    EXPECT_TRUE(eventually([&] { return service.waiting == 3; }));
    for (const char* target : {"/wait?for=ready", "/console"}) {
        EXPECT_EQ(ask("GET", target).status, 503U) << target;
    }
    EXPECT_EQ(ask("PUT", "/stop", R"({"force":true})").status, 200U);
    for (auto& waits : clients) {
        EXPECT_TRUE(waits->read("}").starts_with("HTTP/1.1 200 "));
    }
    EXPECT_EQ(ask("GET", "/wait?for=exit").status, 200U) << "their places are free again";
}

TEST_F(ApiServer, AStopFindsAPlaceBesidesThoseThatWait) {
    start({.connections = 4, .waiting = 2, .stops = 1, .request = 10s, .grace = 1s});
    std::vector<std::unique_ptr<RawClient>> clients;
    for (int i = 0; i < 2; ++i) {
        clients.push_back(std::make_unique<RawClient>(socket));
        clients.back()->send("GET /wait?for=exit&timeout_ms=86400000 HTTP/1.1\r\n\r\n");
    }
    EXPECT_TRUE(eventually([&] { return service.waiting == 2; }));
    EXPECT_EQ(ask("GET", "/wait?for=ready").status, 503U);
    EXPECT_EQ(ask("PUT", "/stop", "{}").status, 200U);
}

TEST_F(ApiServer, RefusesOneConnectionTooMany) {
    start({.connections = 2, .waiting = 2, .request = 10s, .grace = 1s});
    RawClient first(socket);
    RawClient second(socket);
    for (RawClient* client : {&first, &second}) {
        client->send("GET /wait?for=exit&timeout_ms=86400000 HTTP/1.1\r\n\r\n");
    }
    EXPECT_TRUE(eventually([&] { return service.waiting == 2; }));
    EXPECT_TRUE(RawClient(socket).read().starts_with("HTTP/1.1 503 "));
    // A client that is refused while it still writes must get the reason.
    auto refused = client().request("PUT", "/snapshot/create", std::string(100'000, ' '), 10s);
    ASSERT_TRUE(refused.has_value()) << refused.error().message();
    EXPECT_EQ(refused->status, 503U);
}

TEST_F(ApiServer, SilentClientsAreHungUpOn) {
    start({.connections = 2, .waiting = 1, .request = 100ms, .grace = 1s});
    RawClient silent(socket);
    RawClient dribbling(socket);
    ASSERT_TRUE(dribbling.send("GET / HTTP/1.1\r\n"));
    EXPECT_EQ(silent.read(), "");
    EXPECT_TRUE(dribbling.read().starts_with("HTTP/1.1 408 "));
    EXPECT_TRUE(eventually([&] {
        auto again = ApiClient::connect(socket);
        const auto reply = again ? again->request("GET", "/", {}, 10s) : Result<ApiReply>(fail(again.error()));
        return reply && reply->status == 200;
    })) << "their places are free again";
}

TEST_F(ApiServer, TooLargeAndMalformed) {
    start();
    EXPECT_EQ(ask("PUT", "/stop", std::string(129 << 10, ' ')).status, 413U);
    EXPECT_EQ(ask("PUT", "/stop", std::string(4 << 20, ' ')).status, 413U);
    RawClient chunked(socket);
    chunked.send("PUT /stop HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 40; ++i) {
        chunked.send("1000\r\n" + std::string(4096, ' ') + "\r\n");
    }
    EXPECT_TRUE(chunked.read("\r\n").starts_with("HTTP/1.1 413 "));
    RawClient header(socket);
    header.send("GET / HTTP/1.1\r\nX: " + std::string(10'000, 'x') + "\r\n\r\n");
    EXPECT_TRUE(header.read("\r\n").starts_with("HTTP/1.1 431 "));
    for (const char* text :
         {"hello\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "PUT /stop HTTP/1.1\r\nContent-Length: x\r\n\r\n"}) {
        RawClient rude(socket);
        rude.send(text);
        EXPECT_TRUE(rude.read().starts_with("HTTP/1.1 400 ")) << text;
    }
    EXPECT_EQ(service.state(), ServiceState::running);
}

TEST_F(ApiServer, SpeaksToOldAndCarefulClients) {
    start();
    RawClient old(socket);
    old.send("GET /version HTTP/1.0\r\n\r\n");
    const std::string answer = old.read();
    EXPECT_TRUE(answer.starts_with("HTTP/1.0 200 ")) << answer;
    EXPECT_TRUE(answer.ends_with("}")) << "and hangs up: " << answer;
    RawClient careful(socket);
    careful.send("PATCH /vm HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 18\r\n\r\n");
    EXPECT_TRUE(careful.read("\r\n\r\n").starts_with("HTTP/1.1 100 "));
    careful.send(R"({"state":"Paused"})");
    EXPECT_TRUE(careful.read("\r\n\r\n").starts_with("HTTP/1.1 204 "));
}

TEST_F(ApiServer, ClientThatHangsUpEndsItsWait) {
    start();
    {
        RawClient impatient(socket);
        impatient.send("GET /wait?for=exit&timeout_ms=86400000 HTTP/1.1\r\n\r\n");
        EXPECT_TRUE(eventually([&] { return service.waiting == 1; }));
    }
    EXPECT_TRUE(eventually([&] { return service.waiting == 0; }));
}

TEST_F(ApiServer, StopsAlthoughClientsHang) {
    start({.connections = 32, .waiting = 24, .request = 60s, .grace = 200ms});
    const RawClient silent(socket);
    RawClient half(socket);
    half.send("PUT /stop HTTP/1.1\r\nContent-Length: 100\r\n\r\n{");
    RawClient waiting(socket);
    waiting.send("GET /wait?for=exit&timeout_ms=86400000 HTTP/1.1\r\n\r\n");
    EXPECT_TRUE(eventually([&] { return service.waiting == 1; }));
    // A console whose client reads nothing, with more output than a socket holds.
    auto console = client().open_console(10s);
    ASSERT_TRUE(console.has_value()) << console.error().message();
    service.print(std::string(Console::kCapacity, 'x'));
    std::this_thread::sleep_for(20ms);
    server->stop();  // hangs here, and the test's time limit ends it, if it waits for any of them
    EXPECT_TRUE(waiting.read().starts_with("HTTP/1.1 503 ")) << "who waits is told";
    EXPECT_FALSE(ApiClient::connect(socket).has_value());
    server->stop();
}

TEST_F(ApiServer, LeavesTheSocketOfItsSuccessorAlone) {
    start();
    ASSERT_EQ(::unlink(socket.c_str()), 0);
    auto successor = Server::start(socket, service);
    ASSERT_TRUE(successor.has_value());
    server->stop();
    EXPECT_EQ(ask("GET", "/").status, 200U);
}

TEST_F(ApiServer, AnswerOfTheLastRequestArrives) {
    start();
    ApiClient parked = client();
    ASSERT_TRUE(parked.send("GET", "/wait?for=exit&timeout_ms=60000", {}, 10s).has_value());
    EXPECT_TRUE(eventually([&] { return service.waiting == 1; }));
    (void)service.stop({});
    server->stop();
    const auto reply = parked.receive(10s);
    ASSERT_TRUE(reply.has_value()) << reply.error().message();
    EXPECT_NE(reply->body.find("\"exit_code\":3"), std::string::npos) << reply->body;
}

}  // namespace
}  // namespace snapvm::api::test
