// SPDX-License-Identifier: Apache-2.0
// How a layer is taken of a running machine's disk.
#include <algorithm>
#include <utility>

#include "devices/disk/image/new_layer.h"
#include "vmm/base/stopwatch.h"
#include "vmm/base/try.h"
#include "vmm/machine/machine.h"

namespace snapvm {

Result<std::size_t> Machine::find_disk(const std::string& id) const {
    const std::vector<DiskConfig> disks = config().devices.disks;
    const auto found = std::ranges::find(disks, id, &DiskConfig::id);
    if (found == disks.end()) {
        std::string all;
        for (const DiskConfig& disk : disks) {
            all += (all.empty() ? "its disks are " : ", ") + disk.id;
        }
        return fail(ErrorKind::not_found, "this machine has no disk " + id, all);
    }
    return static_cast<std::size_t>(found - disks.begin());
}

Result<LayerTaken> Machine::take_layer(const std::string& id, const std::string& tag, const std::string& into) {
    const std::size_t index = TRY(find_disk(id));
    const DiskConfig disk = config().devices.disks[index];
    if (disk.read_only) {
        return fail(ErrorKind::usage, "disk " + id + " is read-only, so nothing changes it");
    }
    if (disk.ephemeral != Ephemeral::off) {
        return fail(ErrorKind::usage, "disk " + id + " is ephemeral, so what is written to it is not kept");
    }
    const VirtioHandle<virtio::Blk>& blk = devices_.disks()[index];
    const auto file = blk.locked([&](const virtio::Blk& device) {
        return device.file() != nullptr ? disk::ImageFile::of(*device.file(), disk.format)
                                        : fail(ErrorKind::unsupported, "disk " + id + " is no file");
    });
    const auto layer = TRY(disk::NewLayer::make(TRY(Result(file)), blk.unlocked().bytes(), tag, into));
    TRY(blk.locked([&](virtio::Blk& device) { return device.prepare_overlay(layer->take_overlay()); }));
    LayerTaken taken{.disk = id, .tag = tag, .frozen = layer->frozen_path(), .active = layer->active_path()};
    Status done = layer->put_names();
    if (done) {
        done = switch_disk(index, *layer, taken);
    }
    if (!done) {
        blk.locked([](virtio::Blk& device) { device.drop_overlay(); });
        layer->take_back();
        return fail(std::move(done).error());
    }
    return taken;
}

// No request is in flight when the image is frozen, and none begins before the overlay is there.
Status Machine::switch_disk(std::size_t index, disk::NewLayer& layer, LayerTaken& taken) {
    DiskConfig next = config().devices.disks[index];
    next.path = layer.active_path();
    next.format = DiskFormat::qcow2;
    next.backing.push_back(layer.frozen_path());  // the user has named it
    const Stopwatch held;
    TRY(quiesce([] { return Status{}; }));
    std::unique_ptr<Disk> before;
    Status done = check_disks_settled();
    if (done) {
        auto switched = devices_.disks()[index].locked(
            [&](virtio::Blk& device) { return device.continue_in_overlay(layer.mark(), layer.frozen_path()); });
        if (switched) {
            layer.keep();
            before = *std::move(switched);
            const std::lock_guard events(events_);
            std::swap(config_.devices.disks[index], next);
        } else {
            done = fail(std::move(switched).error());
        }
    }
    unquiesce();
    taken.held_us = held.us();
    return done;
}

}  // namespace snapvm
