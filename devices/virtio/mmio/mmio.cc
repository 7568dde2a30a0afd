// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/mmio/mmio.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "vmm/base/try.h"

namespace snapvm::virtio {
namespace {

// Register offsets, 4.2.2.
enum Register : std::uint64_t {
    kMagicValue = 0x00,
    kVersion = 0x04,
    kDeviceId = 0x08,
    kVendorId = 0x0C,
    kDeviceFeatures = 0x10,
    kDeviceFeaturesSel = 0x14,
    kDriverFeatures = 0x20,
    kDriverFeaturesSel = 0x24,
    kQueueSel = 0x30,
    kQueueNumMax = 0x34,
    kQueueNum = 0x38,
    kQueueReady = 0x44,
    kQueueNotify = 0x50,
    kInterruptStatus = 0x60,
    kInterruptAck = 0x64,
    kStatus = 0x70,
    kQueueDescLow = 0x80,
    kQueueDescHigh = 0x84,
    kQueueDriverLow = 0x90,
    kQueueDriverHigh = 0x94,
    kQueueDeviceLow = 0xA0,
    kQueueDeviceHigh = 0xA4,
    kSharedMemoryLow = 0xB0,   // length and base of shared memory regions; all ones: there are none
    kSharedMemoryHigh = 0xBC,
    kConfigGeneration = 0xFC,
    kConfig = 0x100,
};

constexpr std::uint32_t kMagic = 0x74726976;   // "virt"
constexpr std::uint32_t kModern = 2;
constexpr std::uint32_t kVendor = 0x56504E53;  // "SNPV"

// Device status bits, 2.1.
constexpr std::uint32_t kAcknowledge = 1;
constexpr std::uint32_t kDriver = 2;
constexpr std::uint32_t kDriverOk = 4;
constexpr std::uint32_t kFeaturesOk = 8;
constexpr std::uint32_t kNeedsReset = 64;
constexpr std::uint32_t kFailed = 128;
constexpr std::uint32_t kStatusBits = kAcknowledge | kDriver | kDriverOk | kFeaturesOk | kNeedsReset | kFailed;

constexpr std::uint32_t kUsedBuffer = 1;  // interrupt status, 4.2.2
constexpr std::uint32_t kConfigChange = 2;

// Feature bits of chapter 6.
constexpr std::uint64_t kFeatureIndirect = 1ULL << 28;
constexpr std::uint64_t kFeatureEventIndex = 1ULL << 29;
constexpr std::uint64_t kFeatureVersion1 = 1ULL << 32;

Gpa with_low(Gpa place, std::uint32_t low) { return {(place.value & ~0xFFFFFFFFULL) | low}; }
Gpa with_high(Gpa place, std::uint32_t high) { return {(place.value & 0xFFFFFFFFULL) | std::uint64_t{high} << 32}; }

}  // namespace

void MmioStateV1::encode(Encoder& out) const {
    out.u32(device_features_select);
    out.u32(driver_features_select);
    out.u64(driver_features);
    for (const std::uint32_t value : {queue_select, status, interrupt_status, config_generation}) {
        out.u32(value);
    }
    out.u8(static_cast<std::uint8_t>(queues.size()));
    for (const QueueStateV1& queue : queues) {
        queue.encode(out);
    }
}

MmioStateV1 MmioStateV1::decode(Decoder& in) {
    MmioStateV1 state;
    state.device_features_select = in.u32();
    state.driver_features_select = in.u32();
    state.driver_features = in.u64();
    for (std::uint32_t* value :
         {&state.queue_select, &state.status, &state.interrupt_status, &state.config_generation}) {
        *value = in.u32();
    }
    const std::uint8_t queues = in.u8();
    for (unsigned i = 0; i < queues && !in.bad(); ++i) {
        state.queues.push_back(QueueStateV1::decode(in));
    }
    return state;
}

Mmio::Mmio(const DeviceHost& host, const Place& place, std::unique_ptr<virtio::Device> device, UniqueFd notify_fd)
    : host_(host), place_(place), notify_fd_(std::move(notify_fd)), device_(std::move(device)) {
    for (const std::uint16_t size : device_->queue_sizes()) {
        queues_.emplace_back(host.memory, size);
    }
}

Mmio::~Mmio() = default;

Result<std::unique_ptr<Mmio>> Mmio::build(const DeviceHost& host, const Place& place,
                                          std::unique_ptr<virtio::Device> device) {
    UniqueFd notify_fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!notify_fd.valid()) {
        return fail(Error::system("eventfd", name_of(place.kind), errno, "raise the limit of open files (ulimit -n)"));
    }
    std::unique_ptr<Mmio> self(new Mmio(host, place, std::move(device), std::move(notify_fd)));
    TRY(self->device_->attach(*self));
    self->watch_ = TRY(host.loop->watch(EventLoop::Kind::intake, self->notify_fd_.get(), EPOLLIN, [mmio = self.get()] {
        eventfd_t rung = 0;
        (void)::eventfd_read(mmio->notify_fd_.get(), &rung);
        const std::lock_guard lock(mmio->mutex_);
        mmio->serve_queues();
    }));
    return self;
}

std::uint64_t Mmio::offered() const {
    return device_->features() | kFeatureIndirect | kFeatureEventIndex | kFeatureVersion1;
}

bool Mmio::had_driver() const {
    const std::lock_guard lock(mutex_);
    return had_driver_;
}

bool Mmio::running() const { return (state_.status & (kDriverOk | kNeedsReset)) == kDriverOk && !stopping_; }

void Mmio::read(std::uint64_t offset, std::span<std::byte> data) {
    std::ranges::fill(data, std::byte{0});
    const std::lock_guard lock(mutex_);
    if (offset >= kConfig) {
        device_->read_config(offset - kConfig, data);
    } else if (data.size() == sizeof(std::uint32_t) &&
               offset % sizeof(std::uint32_t) == 0) {  // 4.2.2.2: drivers must not make other accesses
        const std::uint32_t value = read_register(offset);
        std::memcpy(data.data(), &value, sizeof value);
    }
}

std::uint32_t Mmio::read_register(std::uint64_t offset) const {
    const Queue* selected = state_.queue_select < queues_.size() ? &queues_[state_.queue_select] : nullptr;
    switch (offset) {
        case kMagicValue: return kMagic;
        case kVersion: return kModern;
        case kDeviceId: return static_cast<std::uint32_t>(device_->type());
        case kVendorId: return kVendor;
        case kDeviceFeatures:
            return state_.device_features_select < 2
                       ? static_cast<std::uint32_t>(offered() >> state_.device_features_select * 32)
                       : 0;
        case kQueueNumMax: return selected != nullptr ? selected->max_size() : 0;
        case kQueueReady: return selected != nullptr && selected->ready() ? 1 : 0;
        case kInterruptStatus: return state_.interrupt_status;
        case kStatus: return state_.status;
        case kConfigGeneration: return state_.config_generation;
        default: return offset >= kSharedMemoryLow && offset <= kSharedMemoryHigh ? 0xFFFFFFFF : 0;
    }
}

void Mmio::write(std::uint64_t offset, std::span<const std::byte> data) {
    if (offset >= kConfig) {
        const std::lock_guard lock(mutex_);
        if (!stopping_) {
            device_->write_config(offset - kConfig, data);
        }
        return;
    }
    if (data.size() != sizeof(std::uint32_t) || offset % sizeof(std::uint32_t) != 0) {
        return;
    }
    std::uint32_t value = 0;
    std::memcpy(&value, data.data(), sizeof value);
    if (offset == kStatus && value == 0) {
        start_over();
        return;
    }
    if (offset == kQueueReady && value == 0) {
        stop_queue();
        return;
    }
    const std::lock_guard lock(mutex_);
    if (!stopping_) {
        write_register(offset, value);
    }
}

void Mmio::write_register(std::uint64_t offset, std::uint32_t value) {
    switch (offset) {
        case kDeviceFeaturesSel: state_.device_features_select = value; break;
        case kDriverFeaturesSel: state_.driver_features_select = value; break;
        case kDriverFeatures:
            if ((state_.status & kFeaturesOk) == 0 && state_.driver_features_select < 2) {
                const unsigned shift = state_.driver_features_select * 32;
                state_.driver_features =
                    (state_.driver_features & ~(0xFFFFFFFFULL << shift)) | (std::uint64_t{value} << shift & offered());
            }
            break;
        case kQueueSel: state_.queue_select = value; break;
        case kQueueNotify: ring(); break;
        case kInterruptAck: state_.interrupt_status &= ~value; break;
        case kStatus: write_status(value); break;
        default: write_queue_register(offset, value); break;
    }
}

// The settings of a ready queue cannot be changed.
void Mmio::write_queue_register(std::uint64_t offset, std::uint32_t value) {
    if (state_.queue_select >= queues_.size() || queues_[state_.queue_select].ready()) {
        return;
    }
    Queue& queue = queues_[state_.queue_select];
    const QueueStateV1& now = queue.state();
    switch (offset) {
        case kQueueNum: queue.set_size(static_cast<std::uint16_t>(std::min(value, 0xFFFFU))); break;
        case kQueueDescLow: queue.set_places(with_low(now.descriptors, value), now.available, now.used); break;
        case kQueueDescHigh: queue.set_places(with_high(now.descriptors, value), now.available, now.used); break;
        case kQueueDriverLow: queue.set_places(now.descriptors, with_low(now.available, value), now.used); break;
        case kQueueDriverHigh: queue.set_places(now.descriptors, with_high(now.available, value), now.used); break;
        case kQueueDeviceLow: queue.set_places(now.descriptors, now.available, with_low(now.used, value)); break;
        case kQueueDeviceHigh: queue.set_places(now.descriptors, now.available, with_high(now.used, value)); break;
        case kQueueReady:
            if (value == 1 && !queue.set_ready()) {
                need_reset();
            }
            break;
        default: break;
    }
}

// 3.1.1: a driver sets one bit after the other. It clears bits only by a reset, which clears all.
void Mmio::write_status(std::uint32_t value) {
    std::uint32_t added = value & ~state_.status & (kAcknowledge | kDriver | kFeaturesOk | kDriverOk | kFailed);
    if ((added & kFeaturesOk) != 0 && (state_.driver_features & kFeatureVersion1) == 0) {
        added &= ~kFeaturesOk;  // there is no legacy interface: the driver reads back that the features were refused
    }
    if ((added & kDriverOk) != 0 && ((state_.status | added) & kFeaturesOk) == 0) {
        added &= ~kDriverOk;
    }
    state_.status |= added;
    if ((added & kDriverOk) != 0) {
        had_driver_ = true;
        tell_queues_what_was_agreed();
        device_->activate();
        ring();
    }
}

void Mmio::tell_queues_what_was_agreed() {
    for (Queue& queue : queues_) {
        queue.use_event_index((state_.driver_features & kFeatureEventIndex) != 0);
    }
}

// Requests in flight write to memory that the driver uses for something else once this register
// write has returned (2.4: the reset is complete then, because drivers over MMIO do not poll).
// Their completions take the lock, so it is not held meanwhile. Register writes of other vCPUs are
// ignored.
template <class Then>
void Mmio::stop_and(Then then) {
    const std::lock_guard one(stopper_);
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    device_->drain();
    const std::lock_guard lock(mutex_);
    then();
    stopping_ = false;
}

void Mmio::start_over() {
    stop_and([this] {
        device_->reset();
        state_ = {};
        for (Queue& queue : queues_) {
            queue.reset();
        }
    });
}

// 4.2.2.2: a driver stops a queue by writing 0 and reading it back.
void Mmio::stop_queue() {
    stop_and([this] {
        if (state_.queue_select < queues_.size()) {
            device_->queue_stopped(state_.queue_select);
            queues_[state_.queue_select].reset();
            tell_queues_what_was_agreed();  // the queue may be made ready again
        }
    });
    const std::lock_guard lock(mutex_);
    ring();  // the other queues may have been notified meanwhile
}

void Mmio::serve_queues() {
    for (std::size_t i = 0; i < queues_.size() && running(); ++i) {
        if (queues_[i].ready() && !device_->notified(i)) {
            need_reset();
        }
    }
}

// 2.1.2: tells the driver, which is not served any more until it has reset the device.
void Mmio::need_reset() {
    state_.status |= kNeedsReset;
    if ((state_.status & kDriverOk) != 0) {
        signal_config();
    }
}

void Mmio::raise(std::uint32_t cause) {
    state_.interrupt_status |= cause;
    host_.interrupts->pulse(place_.gsi);
}

void Mmio::signal_used(std::size_t queue) {
    if (queues_[queue].wants_interrupt()) {
        raise(kUsedBuffer);
    }
}

void Mmio::signal_config() {
    ++state_.config_generation;
    raise(kConfigChange);
}

void Mmio::ring() { (void)::eventfd_write(notify_fd_.get(), 1); }

Result<std::unique_ptr<Transport::Watch>> Mmio::watch(EventLoop::Kind kind, int fd, std::uint32_t events,
                                                      EventLoop::Callback callback) {
    class LockedWatch final : public Transport::Watch {
    public:
        std::shared_ptr<bool> over = std::make_shared<bool>(false);  // guarded by the transport's lock
        std::unique_ptr<EventLoop::Watch> watch;
        ~LockedWatch() override { *over = true; }
    };
    auto locked_watch = std::make_unique<LockedWatch>();
    locked_watch->watch =
        TRY(host_.loop->watch(kind, fd, events, [this, over = locked_watch->over, callback = std::move(callback)] {
            const std::lock_guard lock(mutex_);
            if (!*over) {
                callback();
            }
        }));
    return locked_watch;
}

IoEventFd Mmio::ioeventfd() const {
    return {place_.base.value + kQueueNotify, sizeof(std::uint32_t), notify_fd_.get()};
}

StateRecord Mmio::save() const {
    const std::lock_guard lock(mutex_);
    MmioStateV1 state = state_;
    for (const Queue& queue : queues_) {
        state.queues.push_back(queue.state());
    }
    Encoder out;
    state.encode(out);
    device_->encode(out);
    return {place_.kind, MmioStateV1::kVersion, place_.instance, out.take()};
}

Status Mmio::check(const MmioStateV1& saved) const {
    const std::string name(name_of(place_.kind));
    if ((saved.driver_features & ~offered()) != 0) {
        return fail(ErrorKind::invalid, name + ": its driver uses features that this device does not have");
    }
    if ((saved.status & ~kStatusBits) != 0 || (saved.interrupt_status & ~(kUsedBuffer | kConfigChange)) != 0) {
        return fail(ErrorKind::invalid, name + ": a saved register has bits that it cannot have");
    }
    const bool agreed = (saved.status & kFeaturesOk) != 0;
    if (((saved.status & kDriverOk) != 0 && !agreed) || (agreed && (saved.driver_features & kFeatureVersion1) == 0)) {
        return fail(ErrorKind::invalid, name + ": its driver runs and has not agreed on features");
    }
    if (saved.queues.size() != queues_.size()) {
        return fail(ErrorKind::invalid, name + " has " + std::to_string(queues_.size()) + " queues, its record " +
                                            std::to_string(saved.queues.size()));
    }
    return {};
}

/// What a record holds. A queue has the host's addresses of its parts, which do not change.
struct Mmio::Contents {
    MmioStateV1 registers;  ///< without the queues
    std::vector<Queue> queues;
    std::unique_ptr<const ParsedState> device;
};

Result<std::unique_ptr<const ParsedState>> Mmio::parse(const StateRecord& record) const {
    const std::lock_guard lock(mutex_);
    Decoder in(record.bytes);
    MmioStateV1 registers = MmioStateV1::decode(in);
    Contents contents;
    contents.device = TRY(device_->parse(in));
    TRY(in.finish(std::string(name_of(place_.kind)) + "'s state"));
    TRY(check(registers));
    for (std::size_t i = 0; i < queues_.size(); ++i) {
        contents.queues.push_back(TRY(Queue::restored(host_.memory, queues_[i].max_size(), registers.queues[i])));
    }
    registers.queues.clear();
    contents.registers = std::move(registers);
    return Parsed<Contents>::make(std::move(contents));
}

void Mmio::adopt(const ParsedState& state) noexcept {
    const auto& contents = Parsed<Contents>::of(state);
    const std::lock_guard lock(mutex_);
    state_ = contents.registers;
    std::ranges::copy(contents.queues, queues_.begin());
    tell_queues_what_was_agreed();
    eventfd_t rung = 0;
    (void)::eventfd_read(notify_fd_.get(), &rung);  // what the driver of the state before has rung
    device_->adopt(*contents.device);
}

// Notifications that were not handled when the machine was saved are in no register, but their
// chains are in the queues.
Status Mmio::restored() {
    const std::lock_guard lock(mutex_);
    TRY(device_->restored());
    if (running()) {
        device_->activate();
        ring();
    }
    return {};
}

}  // namespace snapvm::virtio
