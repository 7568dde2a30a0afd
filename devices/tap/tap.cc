// SPDX-License-Identifier: Apache-2.0
#include "devices/tap/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "vmm/base/fd.h"
#include "vmm/base/try.h"

namespace snapvm {
namespace {

constexpr const char* kDevice = "/dev/net/tun";

TapAnswer answer_of(int error) {
    switch (error) {
        case EAGAIN: return TapAnswer::later;
        case EIO:  // what tun returns for an interface that is not up
        case ENETDOWN: return TapAnswer::down;
        case EBADFD:
        case ENODEV: return TapAnswer::gone;
        default: return TapAnswer::refused;
    }
}

template <class Call>
ssize_t restarting(Call call) {
    ssize_t result = 0;
    do {
        result = call();
    } while (result < 0 && errno == EINTR);
    return result;
}

class KernelTap final : public Tap {
public:
    KernelTap(UniqueFd fd, bool uso) : fd_(std::move(fd)), uso_(uso) {}

    [[nodiscard]] int event() const override { return fd_.get(); }
    [[nodiscard]] TapAnswer state() const override {
        pollfd now{.fd = fd_.get(), .events = POLLOUT, .revents = 0};
        if (restarting([&] { return ::poll(&now, 1, 0); }) < 0) {
            return TapAnswer::later;
        }
        return (now.revents & POLLERR) != 0   ? TapAnswer::gone
               : (now.revents & POLLOUT) != 0 ? TapAnswer::done
                                              : TapAnswer::down;
    }
    [[nodiscard]] bool has_uso() const override { return uso_; }
    TapAnswer set_offloads(unsigned offloads) override {
        return ::ioctl(fd_.get(), TUNSETOFFLOAD, static_cast<unsigned long>(offloads)) == 0 ? TapAnswer::done
                                                                                            : answer_of(errno);
    }
    TapAnswer read(std::span<std::byte> frame, std::size_t& size) override {
        const ssize_t got = restarting([&] { return ::read(fd_.get(), frame.data(), frame.size()); });
        size = got < 0 ? 0 : static_cast<std::size_t>(got);
        if (got >= 0) {
            return TapAnswer::done;
        }
        // An unknown error would come again at once, without end.
        const TapAnswer answer = answer_of(errno);
        return answer == TapAnswer::refused ? TapAnswer::gone : answer;
    }
    TapAnswer write(std::span<const iovec> frame) override {
        const ssize_t put =
            restarting([&] { return ::writev(fd_.get(), frame.data(), static_cast<int>(frame.size())); });
        return put < 0 ? answer_of(errno) : TapAnswer::done;
    }

private:
    UniqueFd fd_;
    bool uso_;
};

std::string how_to_make(const std::string& interface) {
    return "make it: ip tuntap add dev " + interface + " mode tap user USER && ip link set " + interface + " up";
}

Result<UniqueFd> open_device(const std::string& name) {
    auto fd = open_file(kDevice, O_RDWR | O_NONBLOCK);
    if (fd) {
        return fd;
    }
    const int error = fd.error().code();
    std::string advice;
    if (error == ENOENT || error == ENODEV) {
        advice = "load the kernel's module: modprobe tun";
    } else if (error == EACCES || error == EPERM) {
        advice = "give yourself access to /dev/net/tun, or run as root";
    }
    return fail(Error::system("open", name + ": " + kDevice, error, std::move(advice)));
}

Error attach_error(const std::string& name, const std::string& interface, int error) {
    switch (error) {
        case EBUSY:
            return {ErrorKind::busy, name + " is in use: another machine has it",
                    "stop that one first, or give this one a tap of its own"};
        case EINVAL:
            return {ErrorKind::invalid, name + " is not a tap with one queue",
                    "give one that is: " + how_to_make("NAME")};
        case EPERM:
            return Error::system("TUNSETIFF", name, error,
                                 "it belongs to another user: have it made for you (ip tuntap add dev " + interface +
                                     " mode tap user USER), or run as root");
        default: return Error::system("TUNSETIFF", name, error);
    }
}

}  // namespace

Result<std::unique_ptr<Tap>> open_tap(const std::string& id, const std::string& interface) {
    const std::string name = "network interface " + id + " (tap " + interface + ")";
    // The kernel would create a new interface for a name with "%d".
    if (interface.empty() || interface.size() >= IFNAMSIZ || interface.find_first_of("%/: ") != std::string::npos) {
        return fail(ErrorKind::usage, name + ": this is not the name of an interface",
                    "give the name of a tap, of 1 to 15 characters");
    }
    UniqueFd fd = TRY(open_device(name));
    if (::if_nametoindex(interface.c_str()) == 0) {
        return fail(ErrorKind::not_found, name + ": there is no such interface", how_to_make(interface));
    }
    ifreq request{};
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    std::memcpy(request.ifr_name, interface.data(), interface.size());
    if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) {
        return fail(attach_error(name, interface, errno));
    }
    if (int header = Tap::kHeader; ::ioctl(fd.get(), TUNSETVNETHDRSZ, &header) != 0) {
        return fail(Error::system("TUNSETVNETHDRSZ", name, errno));
    }
    // Header size and offloads are kept by the interface and may be those of the machine before.
    // The kernel does not report USO (Linux 6.2), so this tries to set it.
    const auto set = [&](unsigned offloads) {
        return ::ioctl(fd.get(), TUNSETOFFLOAD, static_cast<unsigned long>(offloads)) == 0;
    };
    const bool uso = set(tap_offload::kChecksum | tap_offload::kUso);
    if (!set(0)) {
        return fail(Error::system("TUNSETOFFLOAD", name, errno));
    }
    return std::make_unique<KernelTap>(std::move(fd), uso);
}

}  // namespace snapvm
