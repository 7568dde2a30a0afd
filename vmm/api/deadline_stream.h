// SPDX-License-Identifier: Apache-2.0
// A connected socket for Boost.Beast's synchronous functions, with a deadline, which they lack. It
// uses no io_context: that costs three descriptors at start-up, and a connection with one thread
// does not need it. Only server.cc and client.cc include this file.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/system/system_error.hpp>
#include <cerrno>
#include <chrono>

namespace snapvm::api {

/// Does not own the descriptor. Models Beast's SyncReadStream and SyncWriteStream.
class DeadlineStream {
public:
    using Clock = std::chrono::steady_clock;

    explicit DeadlineStream(int fd) : fd_(fd) {}
    /// Reads and writes that transferred nothing by the deadline fail with asio::error::timed_out.
    void expires_at(Clock::time_point deadline) { deadline_ = deadline; }

    template <class MutableBuffers>
    std::size_t read_some(const MutableBuffers& buffers, boost::system::error_code& error) {
        const boost::asio::mutable_buffer part = first_of<boost::asio::mutable_buffer>(buffers);
        if (part.size() == 0) {
            error = {};
            return 0;
        }
        const std::size_t got =
            transfer(POLLIN, error, [&] { return ::recv(fd_, part.data(), part.size(), MSG_DONTWAIT); });
        if (!error && got == 0) {
            error = boost::asio::error::eof;
        }
        return got;
    }
    template <class ConstBuffers>
    std::size_t write_some(const ConstBuffers& buffers, boost::system::error_code& error) {
        const boost::asio::const_buffer part = first_of<boost::asio::const_buffer>(buffers);
        if (part.size() == 0) {
            error = {};
            return 0;
        }
        return transfer(POLLOUT, error,
                        [&] { return ::send(fd_, part.data(), part.size(), MSG_DONTWAIT | MSG_NOSIGNAL); });
    }
    // The concepts also require the throwing forms; no code calls them.
    template <class MutableBuffers>
    std::size_t read_some(const MutableBuffers& buffers) {
        boost::system::error_code error;
        const std::size_t done = read_some(buffers, error);
        return error ? throw boost::system::system_error(error) : done;
    }
    template <class ConstBuffers>
    std::size_t write_some(const ConstBuffers& buffers) {
        boost::system::error_code error;
        const std::size_t done = write_some(buffers, error);
        return error ? throw boost::system::system_error(error) : done;
    }

private:
    template <class Buffer, class Buffers>
    static Buffer first_of(const Buffers& buffers) {
        const auto end = boost::asio::buffer_sequence_end(buffers);
        for (auto at = boost::asio::buffer_sequence_begin(buffers); at != end; ++at) {
            if (Buffer part = *at; part.size() != 0) {
                return part;
            }
        }
        return {};
    }

    template <class Call>
    std::size_t transfer(short events, boost::system::error_code& error, Call call) {
        while (true) {
            // Tries without poll(2) first, since data is usually there.
            if (const ssize_t done = call(); done >= 0) {
                error = {};
                return static_cast<std::size_t>(done);
            }
            if (errno == EINTR) {
                continue;
            }
            if (errno != EAGAIN && errno != EWOULDBLOCK) {
                error.assign(errno, boost::system::system_category());
                return 0;
            }
            const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline_ - Clock::now()).count();
            if (left <= 0) {
                error = boost::asio::error::timed_out;
                return 0;
            }
            pollfd entry{fd_, events, 0};
            ::poll(&entry, 1, static_cast<int>(std::min<std::int64_t>(left, 3'600'000)));
        }
    }

    int fd_;
    Clock::time_point deadline_ = Clock::time_point::max();
};

}  // namespace snapvm::api
