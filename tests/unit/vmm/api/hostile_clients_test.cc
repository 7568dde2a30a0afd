// SPDX-License-Identifier: Apache-2.0
// 300 crafted HTTP messages: the server answers or hangs up, and is as before.
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <filesystem>
#include <random>

#include "tests/unit/vmm/api/fake_service.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::api::test {
namespace {

std::size_t open_descriptors() {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

// Changes a valid message as an attacker would: bytes, lengths, repeated and missing parts.
class Mutator {
public:
    explicit Mutator(unsigned seed) : random_(seed) {}

    std::string next() {
        constexpr std::array<std::string_view, 6> kMessages = {
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "PATCH /vm HTTP/1.1\r\nContent-Length: 18\r\n\r\n{\"state\":\"Paused\"}",
            "PUT /snapshot/create HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 24\r\n\r\n"
            "{\"snapshot_path\":\"/busy\"}",
            "PUT /stop HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "GET /wait?for=ready&timeout_ms=1 HTTP/1.1\r\nConnection: keep-alive\r\n\r\n",
            "GET /console HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: snapvm-console\r\n\r\n"};
        std::string text(kMessages[below(kMessages.size())]);
        for (std::size_t changes = 1 + below(4); changes > 0; --changes) {
            change(text);
        }
        return text;
    }

private:
    std::size_t below(std::size_t limit) { return random_() % std::max<std::size_t>(limit, 1); }

    void change(std::string& text) {
        constexpr std::array<std::string_view, 9> kParts = {"\r\n",
                                                            "Content-Length: 18446744073709551616\r\n",
                                                            "Content-Length: -1\r\n",
                                                            "Transfer-Encoding: chunked\r\n",
                                                            "ffffffffffffffff\r\n",
                                                            "Upgrade: snapvm-console\r\n",
                                                            "GET ",
                                                            "{\"state\":{\"state\":[",
                                                            "%00%ff%"};
        const std::size_t at = below(text.size());
        switch (below(5)) {
            case 0: text.insert(at, kParts[below(kParts.size())]); break;
            case 1: text.resize(at); break;
            case 2: text += text.substr(at); break;
            case 3: text.insert(at, std::string(below(20'000), static_cast<char>(below(256)))); break;
            default:
                if (!text.empty()) {
                    text[at] = static_cast<char>(below(256));
                }
        }
    }

    std::mt19937 random_;
};

// Sends all of it and reads what comes until the server hangs up. A console's output goes on until
// the client does.
void talk(const std::string& socket, std::string_view text) {
    const UniqueFd fd = *connect_unix(socket);
    while (!text.empty()) {
        const ssize_t sent = ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
        if (sent <= 0) {
            break;
        }
        text.remove_prefix(static_cast<std::size_t>(sent));
    }
    ::shutdown(fd.get(), SHUT_WR);
    std::array<char, 4096> chunk;
    pollfd entry{fd.get(), POLLIN, 0};
    ssize_t got = 1;
    while (got > 0 && ::poll(&entry, 1, 20'000) > 0) {
        got = ::recv(fd.get(), chunk.data(), chunk.size(), 0);
        if (got > 0 && std::string_view(chunk.data(), static_cast<std::size_t>(got)).find(" 101 ") < 16) {
            return;
        }
    }
    EXPECT_LE(got, 0) << "the server neither answers nor hangs up";
}

using HostileClients = ServerTest;

TEST_F(HostileClients, TheServerIsAsBefore) {
    start({.connections = 8, .waiting = 6, .request = 500ms, .grace = 1s});
    ASSERT_EQ(ask("GET", "/").status, 200U);
    const std::size_t before = open_descriptors();
    service.console_stays = true;  // each message finds the service as the first one did
    Mutator mutator(18);
    for (int i = 0; i < 300; ++i) {
        const std::string text = mutator.next();
        SCOPED_TRACE(std::to_string(i));
        talk(socket, text);
        if (service.state() == ServiceState::ended) {
            service.set_state(ServiceState::running);  // one of them was a valid stop
        }
    }
    EXPECT_EQ(ask("GET", "/").status, 200U);
    EXPECT_TRUE(eventually([&] { return open_descriptors() <= before; })) << before << ", now " << open_descriptors();
}

}  // namespace
}  // namespace snapvm::api::test
