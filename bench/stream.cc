// SPDX-License-Identifier: Apache-2.0
// vsock: a guest's stream to a program on the host, compared with a unix socket between two
// processes. On both sides this program is the peer. The clock runs from just before the sender or
// the asking side is told to begin until the receiver has the last byte, or the last answer.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <vector>

#include "bench/co_process.h"
#include "bench/load_guest.h"
#include "bench/scenario.h"
#include "vmm/base/try.h"
#include "vmm/base/unix_socket.h"

namespace snapvm::bench {
namespace {

constexpr const char* kScenario = "vsock";

struct Case {
    const char* name;
    ledger::LoadKind kind;
    const char* word;  ///< the word that raw_unix takes
    std::uint64_t size;
    std::uint64_t count;
};
constexpr Case kBulk[] = {{"guest to host, 64K", ledger::LoadKind::stream_out, "out", 64 << 10, 4096},
                          {"host to guest, 64K", ledger::LoadKind::stream_in, "in", 64 << 10, 4096},
                          {"round trip, 64 bytes", ledger::LoadKind::echo, "echo", 64, 1000}};
constexpr Case kSmallBuffers[] = {
    {"host to guest, 64K, into buffers of 4K", ledger::LoadKind::stream_in, "in", 64 << 10, 1024}};

// The program at the other end of the stream.
class Peer {
public:
    explicit Peer(UniqueFd socket) : socket_(std::move(socket)), buffer_(64 << 10) {}

    Status play(const Case& one) {
        switch (one.kind) {
            case ledger::LoadKind::stream_out: return receive(one.size * one.count);
            case ledger::LoadKind::stream_in:
                for (std::uint64_t i = 0; i < one.count; ++i) {
                    TRY(send(one.size));
                }
                return {};
            default:
                for (std::uint64_t i = 0; i < one.count; ++i) {
                    TRY(receive(one.size));
                    TRY(send(one.size));
                }
                return {};
        }
    }

private:
    Status receive(std::uint64_t bytes) {
        while (bytes > 0) {
            const ssize_t got = ::read(socket_.get(), buffer_.data(), std::min<std::uint64_t>(bytes, buffer_.size()));
            if (got <= 0) {
                return fail(Error::system("read", "the stream", got < 0 ? errno : EPIPE));
            }
            bytes -= static_cast<std::uint64_t>(got);
        }
        return {};
    }
    Status send(std::uint64_t bytes) { return write_all(socket_.get(), std::span(buffer_).first(bytes), "the stream"); }

    UniqueFd socket_;
    std::vector<std::byte> buffer_;
};

// Accepts the next connection.
Result<Peer> accept_peer(const Listener& listener) {
    constexpr int kPatienceMs = 10'000;
    pollfd ready{listener.fd(), POLLIN, 0};
    (void)::poll(&ready, 1, kPatienceMs);
    UniqueFd socket(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket.valid()) {
        return fail(Error::system("accept4", "the stream", errno));
    }
    return Peer(std::move(socket));
}

Sample sample_of(const Case& one, Side side, int run, std::uint64_t received_ns, const Parts& all) {
    // The sender is done while the last bytes are in flight, so the receiver's clock counts here.
    const double us =
        one.kind == ledger::LoadKind::stream_out ? static_cast<double>(received_ns) / 1e3 : part_of(all, "ns") / 1e3;
    const auto count = static_cast<double>(one.count);
    const double mib = static_cast<double>(one.size) * count / (1 << 20);
    Sample sample{kScenario, one.name, side, run, us, {}, {}};
    if (one.kind == ledger::LoadKind::echo) {
        sample.figures = {{"round_trip_us", us / count}, {"cpu_us_a_round_trip", part_of(all, "cpu") / 1e3 / count}};
    } else {
        sample.figures = {{"mb_per_s", mib * (1 << 20) / us}, {"cpu_us_a_mib", part_of(all, "cpu") / 1e3 / mib}};
    }
    if (side == Side::ours) {
        for (const char* what : {"exits", "our_exits", "injections"}) {
            sample.figures.emplace_back(std::string(what) + "_a_message", part_of(all, what) / count);
        }
    }
    return sample;
}

Status one_case(const Options& options, Report& report, const Case& one, Process& floor, Peer& floor_peer,
                LoadProcess& ours, Peer& our_peer) {
    return interleaved(options, [&](Side side, int run) -> Status {
        const std::uint64_t start = now_ns();
        if (side == Side::floor) {
            TRY(floor.send(std::string(one.word) + ' ' + std::to_string(one.size) + ' ' + std::to_string(one.count) +
                           '\n'));
            TRY(floor_peer.play(one));
        } else {
            TRY(ours.begin({.kind = one.kind, .size = one.size, .count = one.count}));
            TRY(our_peer.play(one));
        }
        const std::uint64_t received_ns = now_ns() - start;
        const Parts all = side == Side::floor ? parse_parts(TRY(floor.line()), 1) : TRY(ours.end());
        return report.add(sample_of(one, side, run, received_ns, all));
    });
}

// `receive` is the size of the guest's receive buffers.
Status cases(const Options& options, Report& report, std::span<const Case> all, const std::string& receive) {
    const std::string floor_path = options.programs + "/bench.unix";
    const std::string our_path = options.programs + "/bench.vsock";
    const Listener floor_listener = TRY(Listener::open(floor_path, "another folder for the programs"));
    const Listener our_listener =
        TRY(Listener::open(our_path + "_" + std::to_string(ledger::kLoadPort), "another folder for the programs"));
    Process floor = TRY(Process::start({options.raw_unix(), floor_path}));
    Peer floor_peer = TRY(accept_peer(floor_listener));
    LoadProcess ours = TRY(
        LoadProcess::start(options.self, {.memory = "256M", .region = "2M", .receive = receive, .vsock = our_path}));
    Peer our_peer = TRY(accept_peer(our_listener));
    for (const Case& one : all) {
        TRY(one_case(options, report, one, floor, floor_peer, ours, our_peer));
    }
    return {};
}

}  // namespace

Status bench_stream(const Options& options, Report& report) {
    TRY(cases(options, report, kBulk, "64K"));
    return cases(options, report, kSmallBuffers, "4K");
}

}  // namespace snapvm::bench
