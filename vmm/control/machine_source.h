// SPDX-License-Identifier: Apache-2.0
// Joins the machine and the snapshot layer, neither of which knows the other.
#pragma once

#include "snapshot/source/source.h"
#include "vmm/machine/machine.h"

namespace snapvm {

/// A machine in the form that the snapshot layer uses. `machine` must outlive it.
class MachineSnapshotSource final : public SnapshotSource {
public:
    explicit MachineSnapshotSource(Machine& machine) : machine_(machine), config_(machine.config()) {}

    [[nodiscard]] const MachineConfig& config() const override { return config_; }
    Status quiesce(const std::function<Status()>& check_cancelled) override {
        return machine_.quiesce(check_cancelled);
    }
    void unquiesce() override { machine_.unquiesce(); }
    Result<std::chrono::steady_clock::time_point> freeze() override { return machine_.freeze(); }
    std::chrono::steady_clock::time_point thaw() override { return machine_.thaw(); }
    Result<SavedMachine> save() override { return machine_.save(); }
    [[nodiscard]] const GuestMemory& memory() const override { return machine_.memory(); }
    [[nodiscard]] DirtyFeed* dirty() override { return machine_.dirty(); }
    [[nodiscard]] bool can_tell_free_pages() const override {
        return machine_.state() == Machine::State::running && machine_.balloon().can_hint();
    }
    void add_free_pages(DirtySet& into) override { machine_.balloon().add_free_pages(into); }
    Result<std::uint64_t> release_free(std::uint64_t max_bytes,
                                       const std::function<Status()>& check_cancelled) override {
        if (machine_.state() != Machine::State::running) {
            return 0;
        }
        return machine_.balloon().release_free(max_bytes, check_cancelled);
    }
    void give_back() override { machine_.balloon().give_back(); }

private:
    Machine& machine_;
    const MachineConfig config_;
};

}  // namespace snapvm
