// SPDX-License-Identifier: Apache-2.0
#include "vmm/api/client.h"

#include <cerrno>

#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <nlohmann/json.hpp>

#include "vmm/api/deadline_stream.h"
#include "vmm/api/routes.h"
#include "vmm/base/try.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::api {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;
using ErrorCode = boost::system::error_code;

constexpr std::uint64_t kMaxReply = 16 << 20;

boost::beast::string_view view(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

std::string ApiReply::fault() const {
    const auto json = nlohmann::json::parse(body, nullptr, false);
    if (json.is_object() && json.contains("fault_message") && json["fault_message"].is_string()) {
        return json["fault_message"].get<std::string>();
    }
    return body.empty() ? "HTTP status " + std::to_string(status) : body;
}

struct ApiClient::Impl {
    explicit Impl(UniqueFd socket, std::string where)
        : fd(std::move(socket)), stream(fd.get()), path(std::move(where)) {}

    void send(http::request<http::string_body> message, std::chrono::milliseconds timeout) {
        stream.expires_at(DeadlineStream::Clock::now() + timeout);
        message.set(http::field::host, "localhost");
        message.set(http::field::accept, "application/json");
        http::write(stream, message, write_error);
    }

    Result<http::response<http::string_body>> receive(std::chrono::milliseconds timeout) {
        stream.expires_at(DeadlineStream::Clock::now() + timeout);
        http::response_parser<http::string_body> parser;
        parser.body_limit(kMaxReply);
        ErrorCode error;
        http::read(stream, buffer, parser, error);
        if (error) {
            if (error == boost::asio::error::timed_out) {
                return fail(ErrorKind::system,
                            "no answer from " + path + " within " + std::to_string(timeout.count()) + " ms");
            }
            const bool hung_up = error == http::error::end_of_stream || error == http::error::partial_message;
            return hung_up ? fail(Error::system("recv", path, ECONNRESET))
                           : fail(ErrorKind::system, "the answer from " + path + " is not HTTP: " + error.message());
        }
        return parser.release();
    }

    UniqueFd fd;
    DeadlineStream stream;
    beast::flat_buffer buffer;
    // Kept for receive(): a server that stopped reading may still have answered.
    ErrorCode write_error;
    std::string path;
};

ApiClient::ApiClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ApiClient::ApiClient(ApiClient&&) noexcept = default;
ApiClient& ApiClient::operator=(ApiClient&&) noexcept = default;
ApiClient::~ApiClient() = default;

Result<ApiClient> ApiClient::connect(const std::string& socket_path) {
    UniqueFd fd = TRY(connect_unix(socket_path));
    return ApiClient(std::make_unique<Impl>(std::move(fd), socket_path));
}

Status ApiClient::send(std::string_view method, std::string_view target, std::string_view body,
                       std::chrono::milliseconds timeout) {
    try {
        http::request<http::string_body> message;
        message.version(11);
        message.method_string(view(method));
        message.target(view(target));
        if (!body.empty()) {
            message.set(http::field::content_type, "application/json");
            message.body() = body;
            message.prepare_payload();
        }
        impl_->send(std::move(message), timeout);
        return {};
    } catch (const std::exception& e) {
        return fail(ErrorKind::system, "request to " + impl_->path + ": " + e.what());
    }
}

Result<ApiReply> ApiClient::receive(std::chrono::milliseconds timeout) {
    try {
        auto response = TRY(impl_->receive(timeout));
        const auto allow = response[http::field::allow];
        return ApiReply{response.result_int(), std::move(response.body()), std::string(allow.data(), allow.size())};
    } catch (const std::exception& e) {
        return fail(ErrorKind::system, "answer of " + impl_->path + ": " + e.what());
    }
}

Result<ApiReply> ApiClient::request(std::string_view method, std::string_view target, std::string_view body,
                                    std::chrono::milliseconds timeout) {
    const auto start = std::chrono::steady_clock::now();
    TRY(send(method, target, body, timeout));
    return receive(timeout - std::chrono::floor<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start));
}

Result<ConsoleStream> ApiClient::open_console(std::chrono::milliseconds timeout) && {
    try {
        http::request<http::string_body> message(http::verb::get, "/console", 11);
        message.set(http::field::connection, "upgrade");
        message.set(http::field::upgrade, view(kConsoleProtocol));
        impl_->send(std::move(message), timeout);
        auto response = TRY(impl_->receive(timeout));
        if (response.result_int() != 101) {
            const ApiReply reply{response.result_int(), std::move(response.body()), {}};
            return fail(ErrorKind::system, reply.fault());
        }
        return ConsoleStream{std::move(impl_->fd), beast::buffers_to_string(impl_->buffer.data())};
    } catch (const std::exception& e) {
        return fail(ErrorKind::system, "request to " + impl_->path + ": " + e.what());
    }
}

}  // namespace snapvm::api
