// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/balloon/balloon.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "devices/virtio/balloon/numbers.h"
#include "vmm/base/try.h"

namespace snapvm::virtio {
namespace {

constexpr std::array<std::uint16_t, kBalloonQueues> kQueueSizes = {128, 128, 8, 128, 128};

// struct virtio_balloon_config, 5.5.4.
constexpr std::size_t kActualAt = 4;
constexpr std::size_t kPoisonAt = 12;
constexpr std::size_t kConfigSize = 16;
using ConfigBytes = std::array<std::byte, kConfigSize>;

constexpr long kRetryNanoseconds = 10'000'000;

ConfigBytes config_bytes(std::uint32_t asked_pages, const BalloonStateV1& state) {
    const std::array<std::uint32_t, 4> words = {asked_pages, state.actual_pages, state.hint_id, state.poison};
    ConfigBytes bytes;
    std::memcpy(bytes.data(), words.data(), bytes.size());
    return bytes;
}

std::uint32_t word_of(const ConfigBytes& bytes, std::size_t at) {
    std::uint32_t word = 0;
    std::memcpy(&word, bytes.data() + at, sizeof word);
    return word;
}

Result<UniqueFd> make_timer() {
    UniqueFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!timer.valid()) {
        return fail(
            Error::system("timerfd_create", "virtio-balloon", errno, "raise the limit of open files (ulimit -n)"));
    }
    return timer;
}

std::uint32_t pages_in(std::uint64_t bytes) {
    return static_cast<std::uint32_t>(std::min<std::uint64_t>(bytes / kPageSize, ~0U));
}

void take_expirations(const UniqueFd& timer) {
    std::uint64_t times = 0;
    (void)!::read(timer.get(), &times, sizeof times);
}

}  // namespace

void BalloonStateV1::encode(Encoder& out) const {
    for (const std::uint32_t value : {target_pages, actual_pages, hint_id, last_hint_id, poison}) {
        out.u32(value);
    }
    out.boolean(hinting);
    out.boolean(held.has_value());
    if (held) {
        out.u16(*held);
    }
    out.u16(polling_seconds);
}

BalloonStateV1 BalloonStateV1::decode(Decoder& in) {
    BalloonStateV1 state;
    for (std::uint32_t* value :
         {&state.target_pages, &state.actual_pages, &state.hint_id, &state.last_hint_id, &state.poison}) {
        *value = in.u32();
    }
    state.hinting = in.boolean();
    if (in.boolean()) {
        state.held = in.u16();
    }
    state.polling_seconds = in.u16();
    return state;
}

Result<std::unique_ptr<Balloon>> Balloon::create(std::uint64_t target) {
    UniqueFd retry = TRY(make_timer());
    UniqueFd poll = TRY(make_timer());
    return std::unique_ptr<Balloon>(new Balloon(pages_in(target), std::move(retry), std::move(poll)));
}

std::uint64_t Balloon::features() const {
    return kMustTellHost | kStatisticsQueue | kDeflateOnOom | kFreePageHint | kPagePoison | kPageReporting;
}

std::span<const std::uint16_t> Balloon::queue_sizes() const { return kQueueSizes; }

void Balloon::read_config(std::uint64_t offset, std::span<std::byte> data) const {
    const ConfigBytes bytes = config_bytes(asked_pages(), state_);
    if (offset < bytes.size()) {
        std::memcpy(data.data(), bytes.data() + offset, std::min(data.size(), bytes.size() - offset));
    }
}

void Balloon::write_config(std::uint64_t offset, std::span<const std::byte> data) {
    ConfigBytes bytes = config_bytes(asked_pages(), state_);
    if (offset < bytes.size()) {
        std::memcpy(bytes.data() + offset, data.data(), std::min(data.size(), bytes.size() - offset));
        state_.actual_pages = word_of(bytes, kActualAt);  // the other fields are written by the device only
        state_.poison = word_of(bytes, kPoisonAt);
    }
}

Status Balloon::attach(Transport& transport) {
    transport_ = &transport;
    retry_watch_ = TRY(transport.watch(EventLoop::Kind::intake, retry_.get(), EPOLLIN, [this] {
        take_expirations(retry_);
        transport_->ring();
    }));
    poll_watch_ = TRY(transport.watch(EventLoop::Kind::intake, poll_.get(), EPOLLIN, [this] {
        take_expirations(poll_);
        (void)request_statistics();  // a driver that has not answered yet is asked the next time
    }));
    start_polling();
    return {};
}

void Balloon::start_polling() noexcept {
    itimerspec interval{};
    interval.it_interval.tv_sec = interval.it_value.tv_sec = state_.polling_seconds;  // zeros disarm the timer
    (void)::timerfd_settime(poll_.get(), 0, &interval, nullptr);  // cannot fail with these values
}

void Balloon::set_polling(std::uint16_t seconds) {
    state_.polling_seconds = seconds;
    start_polling();
}

void Balloon::look_again_soon() {
    itimerspec soon{};
    soon.it_value.tv_nsec = kRetryNanoseconds;
    (void)::timerfd_settime(retry_.get(), 0, &soon, nullptr);  // cannot fail with these values
}

void Balloon::activate() {
    active_ = true;
    // The driver was not told of a target that was set before it came, or before a restored machine
    // ran.
    if (asked_pages() != state_.actual_pages || state_.hint_id != kHintStop) {
        transport_->signal_config();
    }
}

void Balloon::reset() {
    // What the host has set outlives the driver; what the driver has reported does not. The next
    // driver cannot deflate the old balloon. It uses its pages like any others, and their contents
    // then take precedence over their type.
    const BalloonStateV1 before = std::exchange(state_, {});
    state_.target_pages = before.target_pages;
    state_.polling_seconds = before.polling_seconds;
    state_.last_hint_id = before.last_hint_id;
    let_go();
}

void Balloon::adopted() noexcept {
    let_go();
    statistics_ = {};
    const itimerspec never{};
    (void)::timerfd_settime(retry_.get(), 0, &never, nullptr);  // cannot fail with these values
    start_polling();
}

// Ends what callers have asked the driver for.
void Balloon::let_go() noexcept {
    active_ = false;
    released_pages_ = 0;
    hints_ = {};
    hinting_done_ = true;
}

// The hinting was asked for by the process that made the snapshot. The driver keeps all pages that
// it has named from being used until it is told to end.
Status Balloon::restored() {
    if (state_.hint_id != kHintStop) {
        finish_hinting();
    }
    return {};
}

bool Balloon::request_statistics() {
    if (!negotiated(kStatisticsQueue) || !transport_->queue(kStatistics).ready() || !state_.held) {
        return false;
    }
    transport_->queue(kStatistics).push(*std::exchange(state_.held, std::nullopt), 0);
    transport_->signal_used(kStatistics);
    return true;
}

bool Balloon::can_hint() const { return negotiated(kFreePageHint); }

bool Balloon::start_hinting(HintSink sink) {
    if (!negotiated(kFreePageHint)) {
        return false;
    }
    hints_ = std::move(sink);
    hinting_done_ = false;
    state_.hinting = false;
    state_.last_hint_id = state_.last_hint_id == ~0U ? kHintDone + 1 : std::max(state_.last_hint_id, kHintDone) + 1;
    state_.hint_id = state_.last_hint_id;
    transport_->signal_config();
    return true;
}

void Balloon::finish_hinting() {
    hints_ = {};
    hinting_done_ = true;
    state_.hinting = false;
    state_.hint_id = kHintDone;
    if (active_) {
        transport_->signal_config();
    }
}

void Balloon::set_target(std::uint64_t bytes) {
    state_.target_pages = pages_in(bytes);
    if (active_) {
        transport_->signal_config();
    }
}

void Balloon::release_to(std::uint64_t bytes) {
    if (active_) {
        released_pages_ = pages_in(bytes);
        transport_->signal_config();
    }
}

void Balloon::give_back() {
    if (std::exchange(released_pages_, 0) != 0 && active_) {
        transport_->signal_config();
    }
}

bool Balloon::deflates_on_oom() const { return negotiated(kDeflateOnOom); }

bool Balloon::tells_statistics() const { return negotiated(kStatisticsQueue); }

}  // namespace snapvm::virtio
