// SPDX-License-Identifier: Apache-2.0
// A balloon: memory that the guest gives back to the host for a while. Source: virtio 1.2, 5.5
// "Traditional Memory Balloon Device".
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "devices/virtio/stateful_device.h"
#include "vmm/base/fd.h"

namespace snapvm::virtio {

/// The driver's statistics of the guest's memory (5.5.6.3), by tag. Tags that it did not report
/// have no value.
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
        oom_kill,  // from here on defined by Linux: include/uapi/linux/virtio_balloon.h
        alloc_stall,
        async_scan,
        direct_scan,
        async_reclaim,
        direct_reclaim,
        tag_count,
    };
    std::array<std::optional<std::uint64_t>, tag_count> values;
    std::uint64_t updates = 0;  ///< how often the driver has reported since the device was built
};

/// The saved state. Untrusted.
struct BalloonStateV1 {
    std::uint32_t target_pages = 0;  ///< num_pages: the size that the host asks for
    std::uint32_t actual_pages = 0;  ///< what the driver reports as the balloon's size
    std::uint32_t hint_id = 0;       ///< free_page_hint_cmd_id
    std::uint32_t last_hint_id = 0;  ///< of the last request; the driver ignores an id that it has seen
    std::uint32_t poison = 0;        ///< poison_val
    bool hinting = false;            ///< the driver has answered `hint_id` and is not done yet
    std::optional<std::uint16_t> held;  ///< chain of statistics that is given back to ask for new ones
    std::uint16_t polling_seconds = 0;  ///< how often the driver is asked for statistics; 0: never by itself

    void encode(Encoder& out) const;
    static BalloonStateV1 decode(Decoder& in);
};

/// A virtio balloon. Pages of the balloon, and pages reported free, go back to the host at once and
/// are recorded in the page-type table. Pages outside of RAM are ignored. While no page may be
/// given up (DiscardGate), the driver's requests stay in the queue and are tried again every 10 ms.
///
/// A hint never discards a page. It goes to the HintSink, whose owner may then leave out a copy.
class Balloon final : public StatefulDevice<BalloonStateV1> {
public:
    /// Gets pages [first, first + count) of the block at this position in block-list order.
    using HintSink = std::function<void(std::size_t block, std::uint64_t first, std::uint64_t count)>;

    /// Builds a balloon whose target has this many bytes.
    static Result<std::unique_ptr<Balloon>> create(std::uint64_t target);

    [[nodiscard]] DeviceType type() const override { return DeviceType::balloon; }
    [[nodiscard]] std::uint64_t features() const override;
    [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override;
    void read_config(std::uint64_t offset, std::span<std::byte> data) const override;
    void write_config(std::uint64_t offset, std::span<const std::byte> data) override;
    Status attach(Transport& transport) override;
    void activate() override;
    Status notified(std::size_t queue) override;
    void reset() override;
    Status restored() override;

    // For the host, with the transport's lock held (Mmio::locked).
    [[nodiscard]] std::uint64_t target_bytes() const { return state_.target_pages * kPageSize; }
    [[nodiscard]] std::uint64_t actual_bytes() const { return state_.actual_pages * kPageSize; }
    void set_target(std::uint64_t bytes);
    [[nodiscard]] bool active() const { return active_; }
    /// Returns the size of the guest's RAM, including the balloon's share.
    [[nodiscard]] std::uint64_t ram_bytes() const;
    /// Asks the driver for a balloon of this size until give_back(), if it is larger than the
    /// target. No saved state holds this: a restored driver sees a balloon above its target and
    /// gives the difference back to its guest by itself.
    void release_to(std::uint64_t bytes);
    void give_back();
    /// Whether a guest that is short of memory takes pages out of the balloon by itself.
    [[nodiscard]] bool deflates_on_oom() const;
    [[nodiscard]] bool tells_statistics() const;
    [[nodiscard]] std::uint16_t polling_seconds() const { return state_.polling_seconds; }
    /// Asks the driver for statistics every `seconds` from now on; 0: only in request_statistics().
    void set_polling(std::uint16_t seconds);
    /// Asks the driver for new statistics, which come later. Returns false if it cannot be asked
    /// now.
    bool request_statistics();
    [[nodiscard]] const BalloonStatistics& statistics() const { return statistics_; }
    [[nodiscard]] bool can_hint() const;
    /// Asks the driver to name its free pages, and not to use them before finish_hinting(). Returns
    /// false if the driver does not support that.
    bool start_hinting(HintSink sink);
    /// Whether the driver has answered and is not done yet.
    [[nodiscard]] bool hinting() const { return state_.hinting; }
    /// Whether the driver has named all its free pages, or the hinting was ended.
    [[nodiscard]] bool hinting_done() const { return hinting_done_; }
    /// Ends the hinting: the driver may use the pages again, and the sink is not called any more.
    void finish_hinting();

private:
    Balloon(std::uint32_t target_pages, UniqueFd retry, UniqueFd poll)
        : retry_(std::move(retry)), poll_(std::move(poll)) {
        state_.target_pages = target_pages;
    }
    [[nodiscard]] Status check(const BalloonStateV1& /*state*/) const override { return {}; }
    void adopted() noexcept override;
    void let_go() noexcept;
    [[nodiscard]] bool negotiated(std::uint64_t feature) const {
        return active_ && (transport_->features() & feature) != 0;
    }
    Result<std::vector<std::uint32_t>> page_numbers(const Chain& chain) const;
    template <class Visit>
    void for_ram(Gpa at, std::uint64_t pages, Visit visit);
    template <class Visit>
    Status for_numbered_runs(const Chain& chain, Visit visit);
    Status serve_giving(std::size_t queue);
    void discard(Gpa at, std::uint64_t pages, bool reported);
    Status take_statistics();
    Status read_statistics(const Chain& chain);
    Result<std::uint32_t> take_hints(const Chain& chain);
    [[nodiscard]] std::uint32_t asked_pages() const { return std::max(state_.target_pages, released_pages_); }
    void look_again_soon();
    void start_polling() noexcept;

    UniqueFd retry_;  ///< timerfd for requests that wait for the DiscardGate
    UniqueFd poll_;  ///< timerfd for set_polling()
    std::unique_ptr<Transport::Watch> retry_watch_;
    std::unique_ptr<Transport::Watch> poll_watch_;
    Transport* transport_ = nullptr;
    bool active_ = false;
    std::uint32_t released_pages_ = 0;  ///< size asked for by release_to(), in pages; 0: none
    BalloonStatistics statistics_;
    HintSink hints_;
    bool hinting_done_ = false;
    Counter discarded_pages_{counters_, "discarded_pages"};
};

}  // namespace snapvm::virtio
