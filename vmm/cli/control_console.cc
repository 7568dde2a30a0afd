// SPDX-License-Identifier: Apache-2.0
// snapvm console, and the console of a `run` on a terminal.
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>

#include "vmm/base/fd.h"
#include "vmm/base/printable.h"
#include "vmm/base/try.h"
#include "vmm/cli/control.h"
#include "vmm/cli/control_console.h"
#include "vmm/cli/output.h"
#include "vmm/cli/terminal.h"
#include "vmm/host/run_dir.h"

namespace snapvm::cli {
namespace {

// Moves bytes until the machine closes the stream, or an escape key ends it.
class ConsolePump {
public:
    /// `resized` is called when the terminal's size has changed.
    ConsolePump(int socket, bool keys, int size_signals, std::function<void()> resized)
        : socket_(socket), keys_(keys), size_signals_(size_signals), resized_(std::move(resized)) {}

    Result<EscapeFilter::Action> run(std::string_view first) {
        TRY(show(first));
        while (true) {
            // stdin is read only if the bytes read before were sent, so that pending_ stays small.
            const bool reads = input_ && pending_.empty();
            std::array<pollfd, 3> entries = {
                {{reads ? STDIN_FILENO : -1, POLLIN, 0},
                 {socket_, static_cast<short>(pending_.empty() ? POLLIN : POLLIN | POLLOUT), 0},
                 {size_signals_, POLLIN, 0}}};
            if (::poll(entries.data(), entries.size(), -1) < 0) {
                if (errno != EINTR) {
                    return fail(Error::system("poll", "the console", errno));
                }
                continue;
            }
            if (entries[2].revents != 0) {
                signalfd_siginfo signal{};
                (void)!::read(size_signals_, &signal, sizeof signal);
                resized_();
            }
            if (entries[0].revents != 0) {
                const EscapeFilter::Action action = take_input();
                if (action != EscapeFilter::Action::none) {
                    return action;
                }
            }
            send_pending();
            if ((entries[1].revents & (POLLIN | POLLHUP | POLLERR)) != 0 && !TRY(take_output())) {
                return EscapeFilter::Action::none;
            }
        }
    }

private:
    static Status show(std::string_view bytes) {
        return write_all(STDOUT_FILENO, std::as_bytes(std::span(bytes)), "stdout");
    }

    EscapeFilter::Action take_input() {
        std::array<char, 4096> chunk;
        const ssize_t got = ::read(STDIN_FILENO, chunk.data(), chunk.size());
        if (got <= 0) {
            input_ = got < 0 && (errno == EINTR || errno == EAGAIN);
            return EscapeFilter::Action::none;
        }
        const std::string_view typed(chunk.data(), static_cast<std::size_t>(got));
        if (!keys_) {
            pending_ = typed;
            return EscapeFilter::Action::none;
        }
        EscapeFilter::Output output = filter_.feed(typed);
        pending_ = std::move(output.bytes);
        return output.action;
    }

    void send_pending() {
        if (pending_.empty()) {
            return;
        }
        const ssize_t sent = ::send(socket_, pending_.data(), pending_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) {
            pending_.erase(0, static_cast<std::size_t>(sent));
        } else if (errno != EAGAIN && errno != EINTR) {
            // The machine takes no more input. Its last output still has to be read.
            pending_.clear();
            input_ = false;
        }
    }

    // Returns false at the end of the stream.
    Result<bool> take_output() {
        std::array<char, 16384> chunk;
        const ssize_t got = ::recv(socket_, chunk.data(), chunk.size(), MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            return true;
        }
        if (got <= 0) {
            return false;
        }
        TRY(show({chunk.data(), static_cast<std::size_t>(got)}));
        return true;
    }

    int socket_;
    bool keys_;
    int size_signals_;  ///< -1 if stdin is not a terminal
    std::function<void()> resized_;
    bool input_ = true;
    std::string pending_;
    EscapeFilter filter_;
};

// Tells the guest the size of the terminal. A line without a size, or an older machine, ignores it.
void send_size(const std::string& api_socket, const std::string& name) {
    winsize size{};
    auto client = connect_socket(api_socket, name);
    if (client && ::ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
        const nlohmann::json body = {{"columns", size.ws_col}, {"rows", size.ws_row}};
        (void)ask(*client, "PUT", "/console/size", json_text(body), kQuickAnswer);
    }
}

// Returns nothing if the text does not say how a run ended.
std::optional<int> exit_code_in(const std::string& answer) {
    const auto fields = nlohmann::json::parse(answer, nullptr, /*allow_exceptions=*/false);
    if (!fields.is_object() || !fields.contains("exit_code") || !fields["exit_code"].is_number()) {
        return std::nullopt;
    }
    return fields["exit_code"].get<int>();
}

}  // namespace

void show_log(const RunDir& dir, const std::string& name) {
    if (const std::string log = dir.log(name); !log.empty()) {
        print(stderr, "\n%s", log.c_str());
    }
}

Result<int> attach_console(const Globals& globals, const std::string& name) {
    const RunDir dir = TRY(RunDir::find(globals.run_dir));
    const std::string api_socket = TRY(socket_of(globals, name));
    // Sent before the console is opened: once the machine has ended, its process does not wait for
    // a further request.
    api::ApiClient ending = TRY(connect_socket(api_socket, name));
    TRY(ending.send("GET", "/wait?for=exit&timeout_ms=86400000", {}, kQuickAnswer));
    api::ConsoleStream stream = TRY(TRY(connect_socket(api_socket, name)).open_console(kQuickAnswer));
    EscapeFilter::Action action = EscapeFilter::Action::none;
    {
        const RawTerminal raw = TRY(RawTerminal::enter(STDIN_FILENO));
        UniqueFd size_signals;
        if (raw.active()) {
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGWINCH);
            ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
            size_signals = UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC));
            send_size(api_socket, name);
        }
        ConsolePump pump(stream.fd.get(), raw.active(), size_signals.get(), [&] { send_size(api_socket, name); });
        action = TRY(pump.run(stream.first));
    }
    if (action == EscapeFilter::Action::detach) {
        print(stderr, "\nsnapvm: detached from %s; snapvm console %s attaches again\n", name.c_str(), name.c_str());
        return 0;
    }
    if (action == EscapeFilter::Action::quit) {
        api::ApiClient client = TRY(connect_socket(api_socket, name));
        TRY(ask(client, "PUT", "/stop", {}, kQuickAnswer));
    }
    const Result<api::ApiReply> answer = ending.receive(kQuickAnswer);
    std::optional<int> code = answer ? exit_code_in(answer->body) : std::nullopt;
    if (!code) {
        (void)dir.wait_gone(name, std::chrono::steady_clock::now() + kQuickAnswer);
        code = exit_code_in(dir.outcome(name));
    }
    if (!code) {
        return fail(ErrorKind::invalid, "machine " + name + " has ended, and its process has not said how");
    }
    // Waits, so that the same command finds name and disks free afterwards. The exit code is known
    // even if it takes longer.
    (void)dir.wait_gone(name, std::chrono::steady_clock::now() + kQuickAnswer);
    show_log(dir, name);
    return *code;
}

void add_console(Command program, Globals& globals) {
    Command command =
        program.subcommand("console",
                           "attach to a machine's serial port, or its virtio console if that is its terminal "
                           "(Ctrl-a d detaches, Ctrl-a x stops the machine)");
    auto name = std::make_shared<std::string>();
    command.example("snapvm console vm");
    command.required("NAME", *name, "the machine");
    command.action([=, &globals] { return attach_console(globals, *name); });
}

}  // namespace snapvm::cli
