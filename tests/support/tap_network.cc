// SPDX-License-Identifier: Apache-2.0
#include "tests/support/tap_network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace snapvm::test {
namespace {

void require(bool done, const char* what) {
    if (!done) {
        std::perror(what);
        std::abort();
    }
}

ifreq request_for(const std::string& name) {
    ifreq request{};
    require(name.size() < IFNAMSIZ, "a tap's name");
    std::memcpy(request.ifr_name, name.data(), name.size());
    return request;
}

}  // namespace

TapNetwork::TapNetwork() {
    if (::geteuid() != 0) {
        reason_ = "a network of its own needs root";
        return;
    }
    if (::access("/dev/net/tun", R_OK | W_OK) != 0) {
        reason_ = "there is no /dev/net/tun";
        return;
    }
    before_ = UniqueFd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    if (!before_.valid() || ::unshare(CLONE_NEWNET) != 0) {
        reason_ = std::string("a network of its own cannot be made: ") + std::strerror(errno);
        before_.reset();
        return;
    }
    socket_ = UniqueFd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    require(socket_.valid(), "socket");
}

TapNetwork::~TapNetwork() {
    if (before_.valid()) {
        require(::setns(before_.get(), CLONE_NEWNET) == 0, "setns");
    }
}

void TapNetwork::add(const std::string& name, bool up) const {
    const UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    ifreq request = request_for(name);
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    require(::ioctl(tap.get(), TUNSETIFF, &request) == 0 && ::ioctl(tap.get(), TUNSETPERSIST, 1) == 0 &&
                ::ioctl(tap.get(), TUNSETOWNER, 0) == 0,
            "tap");
    // With IPv6 the kernel would look for neighbours and routers there.
    if (const UniqueFd ipv6(
            ::open(("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6").c_str(), O_WRONLY | O_CLOEXEC));
        ipv6.valid()) {
        require(::write(ipv6.get(), "1", 1) == 1, "disable_ipv6");
    }
    if (up) {
        set_up(name, true);
    }
}

void TapNetwork::set_up(const std::string& name, bool up) const {
    ifreq request = request_for(name);
    require(::ioctl(socket_.get(), SIOCGIFFLAGS, &request) == 0, "SIOCGIFFLAGS");
    request.ifr_flags = static_cast<short>(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
    require(::ioctl(socket_.get(), SIOCSIFFLAGS, &request) == 0, "SIOCSIFFLAGS");
}

void TapNetwork::set_address(const std::string& name, const std::string& address) const {
    const auto set = [&](unsigned long what, const char* value) {
        ifreq request = request_for(name);
        auto& place = reinterpret_cast<sockaddr_in&>(request.ifr_addr);
        place.sin_family = AF_INET;
        require(::inet_pton(AF_INET, value, &place.sin_addr) == 1, value);
        require(::ioctl(socket_.get(), what, &request) == 0, value);
    };
    set(SIOCSIFADDR, address.c_str());
    set(SIOCSIFNETMASK, "255.255.255.0");
}

// Deletes by netlink, which works while a process is attached to the tap; an ioctl of the tap would
// not.
void TapNetwork::remove(const std::string& name) const {
    struct {
        nlmsghdr header;
        ifinfomsg link;
    } request{};
    request.header.nlmsg_len = sizeof request;
    request.header.nlmsg_type = RTM_DELLINK;
    request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    request.link.ifi_index = static_cast<int>(::if_nametoindex(name.c_str()));
    const UniqueFd route(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    require(::send(route.get(), &request, sizeof request, 0) == sizeof request, "RTM_DELLINK");
    struct {
        nlmsghdr header;
        nlmsgerr error;
        std::array<char, 512> rest;
    } answer{};
    require(::recv(route.get(), &answer, sizeof answer, 0) > 0 && answer.error.error == 0, "RTM_DELLINK");
}

PacketSocket::PacketSocket(const std::string& interface, bool with_header)
    : fd_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    const int yes = 1;
    if (with_header) {
        require(::setsockopt(fd_.get(), SOL_PACKET, PACKET_VNET_HDR, &yes, sizeof yes) == 0, "PACKET_VNET_HDR");
    } else {
        // For a moment after a tap is opened, its queue drops all packets and reports success,
        // until the kernel's worker has noticed the carrier. So this bypasses the queue.
        require(::setsockopt(fd_.get(), SOL_PACKET, PACKET_QDISC_BYPASS, &yes, sizeof yes) == 0, "PACKET_QDISC_BYPASS");
    }
    require(::setsockopt(fd_.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes, sizeof yes) == 0,
            "PACKET_IGNORE_OUTGOING");
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(interface.c_str()));
    require(::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0, "bind");
}

bool PacketSocket::send(std::span<const std::byte> frame) const {
    return ::send(fd_.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size());
}

std::optional<std::vector<std::byte>> PacketSocket::receive(bool wait) const {
    pollfd ready{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    (void)::poll(&ready, 1, wait ? 60'000 : 0);
    std::vector<std::byte> frame(70'000);
    const ssize_t got = ::recv(fd_.get(), frame.data(), frame.size(), 0);
    if (got < 0) {
        return std::nullopt;
    }
    frame.resize(static_cast<std::size_t>(got));
    return frame;
}

}  // namespace snapvm::test
