// SPDX-License-Identifier: Apache-2.0
// Memory that the guest lends back to the host. Source: virtio 1.2, 5.5 "Traditional Memory Balloon Device".
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "devices/virtio/device.h"
#include "vmm/base/fd.h"

namespace snapvm::virtio {

/// What the driver told of the guest's memory (5.5.6.3), by tag; tags it did not give have no value.
struct BalloonStatistics {
    enum Tag : std::size_t {
        swap_in,
        swap_out,
        major_faults,
        minor_faults,
        free_memory,
        total_memory,
        available_memory,
        disk_caches,
        hugetlb_allocations,
        hugetlb_failures,
        oom_kill,  // from here on Linux' own: include/uapi/linux/virtio_balloon.h
        alloc_stall,
        async_scan,
        direct_scan,
        async_reclaim,
        direct_reclaim,
        tag_count,
    };
    std::array<std::optional<std::uint64_t>, tag_count> values;
    std::uint64_t updates = 0;  ///< how often the driver has told since the device was built
};

/// The state as it is saved; untrusted.
struct BalloonStateV1 {
    std::uint32_t target_pages = 0;  ///< num_pages: what the host wants
    std::uint32_t actual_pages = 0;  ///< what the driver says the balloon holds
    std::uint32_t hint_id = 0;       ///< free_page_hint_cmd_id
    std::uint32_t last_hint_id = 0;  ///< of the last request: the driver takes no notice of one that it has seen
    std::uint32_t poison = 0;        ///< poison_val
    bool hinting = false;            ///< the driver has answered `hint_id`, and not said that it is done
    std::optional<std::uint16_t> held;  ///< the chain of statistics that waits for the host to ask
    std::uint16_t polling_seconds = 0;  ///< how often it is asked without the host's doing; 0: never

    void encode(Encoder& out) const;
    static BalloonStateV1 decode(Decoder& in);
};

/// Pages of the balloon, and pages reported free, go back to the host at once and are noted in the page-type table. What the driver names
/// outside of RAM is ignored. While pages may not be given up (DiscardGate) the driver's requests wait, and are looked at again soon.
///
/// A hint is never a discard: it goes to whoever asked for hints, who may then leave a copy out.
class Balloon final : public Device {
public:
    /// Pages [first, first + count) of the block at this place in the list.
    using HintSink = std::function<void(std::size_t block, std::uint64_t first, std::uint64_t count)>;

    /// Fresh, or as it was saved.
    static Result<std::unique_ptr<Balloon>> build(const BalloonStateV1& state);

    [[nodiscard]] DeviceType type() const override { return DeviceType::balloon; }
    [[nodiscard]] std::uint64_t features() const override;
    [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
    void write_config(std::uint64_t offset, std::span<const std::byte> data) override;
    Status attach(Port& port) override;
    void activate() override;
    Status notified(std::size_t queue) override;
    void reset() override;
    Status restored() override;
    void encode(Encoder& out) const override { state_.encode(out); }

    // For the host, with the transport's lock held (Mmio::locked).
    [[nodiscard]] std::uint64_t target_bytes() const { return state_.target_pages * kPageSize; }
    [[nodiscard]] std::uint64_t actual_bytes() const { return state_.actual_pages * kPageSize; }
    void set_target(std::uint64_t bytes);
    [[nodiscard]] bool active() const { return active_; }
    /// All the guest has, the balloon's share included.
    [[nodiscard]] std::uint64_t ram_bytes() const;
    /// The driver is asked for up to so much, for a while, where that is more than the target. In no saved state: a restored driver sees a
    /// balloon above its target, and lets go of the difference by itself.
    void release_to(std::uint64_t bytes);
    void give_back();
    /// Whether a guest that is short of memory takes some back by itself.
    [[nodiscard]] bool deflates_on_oom() const;
    [[nodiscard]] bool tells_statistics() const;
    [[nodiscard]] std::uint16_t polling_seconds() const { return state_.polling_seconds; }
    /// The driver is asked for statistics every so many seconds from now on; 0: only by request_statistics.
    void set_polling(std::uint16_t seconds);
    /// The driver is asked for new ones; they come later, if it answers. False: it cannot be asked now.
    bool request_statistics();
    [[nodiscard]] const BalloonStatistics& statistics() const { return statistics_; }
    [[nodiscard]] bool can_hint() const;
    /// Asks the driver to name its free pages, and not to use them before finish_hinting. False: it does not know how to.
    bool start_hinting(HintSink sink);
    /// The driver has answered, and is at it.
    [[nodiscard]] bool hinting() const { return state_.hinting; }
    /// The driver has named all it had.
    [[nodiscard]] bool hinting_done() const { return hinting_done_; }
    void finish_hinting();

private:
    Balloon(const BalloonStateV1& state, UniqueFd retry, UniqueFd poll)
        : state_(state), retry_(std::move(retry)), poll_(std::move(poll)) {}
    [[nodiscard]] bool negotiated(std::uint64_t feature) const { return active_ && (port_->features() & feature) != 0; }
    Result<std::vector<std::uint32_t>> page_numbers(const Chain& chain) const;
    template <class Visit>
    void for_ram(Gpa at, std::uint64_t pages, Visit visit);
    template <class Visit>
    Status for_numbered_runs(const Chain& chain, Visit visit);
    Status serve_giving(std::size_t queue);
    void give_up(Gpa at, std::uint64_t pages, bool reported);
    Status take_statistics();
    Status read_statistics(const Chain& chain);
    Result<std::uint32_t> take_hints(const Chain& chain);
    [[nodiscard]] std::uint32_t asked_pages() const { return std::max(state_.target_pages, released_pages_); }
    void look_again_soon();
    void start_polling();

    BalloonStateV1 state_;
    UniqueFd retry_;  ///< timerfd
    UniqueFd poll_;  ///< timerfd
    std::unique_ptr<Port::Watch> retry_watch_;
    std::unique_ptr<Port::Watch> poll_watch_;
    Port* port_ = nullptr;
    bool active_ = false;
    std::uint32_t released_pages_ = 0;  ///< release_to; 0: nothing
    BalloonStatistics statistics_;
    HintSink hints_;
    bool hinting_done_ = false;
};

}  // namespace snapvm::virtio
