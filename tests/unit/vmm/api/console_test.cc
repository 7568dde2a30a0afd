// SPDX-License-Identifier: Apache-2.0
// GET /console: scrollback, output, input, several clients, ends.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/vmm/api/fake_service.h"

namespace snapvm::api::test {
namespace {

class ApiConsole : public ServerTest {
protected:
    ConsoleStream open() {
        auto stream = client().open_console(10s);
        EXPECT_TRUE(stream.has_value()) << stream.error().message();
        return *std::move(stream);
    }
    /// Reads until `wanted` bytes are there; everything until the end where it is 0.
    static std::string read(ConsoleStream& stream, std::size_t wanted) {
        std::string all = std::exchange(stream.first, {});
        while (wanted == 0 || all.size() < wanted) {
            pollfd entry{stream.fd.get(), POLLIN, 0};
            std::array<char, 65536> chunk;
            const ssize_t got =
                ::poll(&entry, 1, 20'000) > 0 ? ::recv(stream.fd.get(), chunk.data(), chunk.size(), 0) : -1;
            if (got <= 0) {
                break;
            }
            all.append(chunk.data(), static_cast<std::size_t>(got));
        }
        return all;
    }
    static void write(const ConsoleStream& stream, std::string_view text) {
        ASSERT_EQ(::send(stream.fd.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
    }
};

TEST_F(ApiConsole, ScrollbackThenLive) {
    start();
    service.print("before\n");
    ConsoleStream stream = open();
    EXPECT_EQ(read(stream, 7), "before\n");
    service.print("after\n");
    EXPECT_EQ(read(stream, 6), "after\n");
}

TEST_F(ApiConsole, SeveralClientsSeeAllAndAllMayType) {
    start();
    ConsoleStream one = open();
    ConsoleStream two = open();
    service.print("hello");
    EXPECT_EQ(read(one, 5), "hello");
    EXPECT_EQ(read(two, 5), "hello");
    write(one, "a");
    EXPECT_TRUE(eventually([&] { return service.input_now() == "a"; }));
    write(two, std::string("b\0c", 3));
    EXPECT_TRUE(eventually([&] { return service.input_now() == std::string("ab\0c", 4); })) << "bytes, not text";
}

TEST_F(ApiConsole, AllOutputArrivesBeforeTheEnd) {
    start();
    ConsoleStream stream = open();
    const std::string text(200'000, 'z');
    service.print(text);
    (void)service.stop({});
    EXPECT_EQ(read(stream, 0), text);
}

TEST_F(ApiConsole, ServerThatStopsSendsTheLastOutputOfAMachineThatEnded) {
    start();
    ConsoleStream stream = open();
    service.print("last words");
    (void)service.stop({});
    server->stop();
    EXPECT_EQ(read(stream, 0), "last words");
}

TEST_F(ApiConsole, ClientThatHasSentAllGoesOnReading) {
    start();
    ConsoleStream stream = open();
    write(stream, "in");
    ASSERT_EQ(::shutdown(stream.fd.get(), SHUT_WR), 0);
    EXPECT_TRUE(eventually([&] { return service.input_now() == "in"; }));
    std::this_thread::sleep_for(20ms);
    service.print("out");
    EXPECT_EQ(read(stream, 3), "out");
}

TEST_F(ApiConsole, ClientMayLeaveWhileTheGuestTakesNoInput) {
    start({.connections = 1, .request = 10s, .grace = 1s});
    service.deaf = true;
    {
        const ConsoleStream stream = open();
        write(stream, "never read");
    }
    // Its connection becomes free, for another that leaves it to stop() to end it.
    std::optional<ConsoleStream> second;
    EXPECT_TRUE(eventually([&] {
        auto again = ApiClient::connect(socket);
        auto stream = again ? std::move(*again).open_console(10s) : Result<ConsoleStream>(fail(again.error()));
        if (stream) {
            second = *std::move(stream);
        }
        return second.has_value();
    }));
    ASSERT_TRUE(second.has_value());
    write(*second, "never read");
    server->stop();
}

TEST_F(ApiConsole, OtherProtocolsAreRefused) {
    start();
    EXPECT_EQ(ask("GET", "/console").status, 400U);
}

}  // namespace
}  // namespace snapvm::api::test
