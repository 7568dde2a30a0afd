// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/rng/rng.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "vmm/base/try.h"

namespace snapvm::virtio {
namespace {

constexpr std::array<std::uint16_t, 1> kQueueSizes = {64};
// A larger buffer is filled in part, which 5.4.6.2 allows: the driver asks again.
constexpr std::uint64_t kMostBytes = 4096;

}  // namespace

std::span<const std::uint16_t> Rng::queue_sizes() const { return kQueueSizes; }

Status Rng::attach(Transport& transport) {
    transport_ = &transport;
    return {};
}

Status Rng::notified(std::size_t queue) {
    return serve(*transport_, queue, [this](const Chain& chain) -> Result<std::uint32_t> {
        std::array<std::byte, kMostBytes> bytes;
        const auto wanted = std::min(chain.writable_bytes, kMostBytes);
        // getrandom(2) never returns less for this number of bytes once the kernel's pool is
        // initialized, which is the case before machines run.
        if (::getrandom(bytes.data(), wanted, 0) != static_cast<ssize_t>(wanted)) {
            return fail(Error::system("getrandom", "virtio-rng", errno));
        }
        const std::size_t written = TRY(write_chain(transport_->memory(), chain, 0, std::span(bytes).first(wanted)));
        return static_cast<std::uint32_t>(written);
    });
}

}  // namespace snapvm::virtio
