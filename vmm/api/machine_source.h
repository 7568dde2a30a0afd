// SPDX-License-Identifier: Apache-2.0
// What joins the machine and the snapshot layer, neither of which knows the other. Embedders use it too.
#pragma once

#include "snapshot/source.h"
#include "vmm/machine/machine.h"

namespace snapvm::api {

/// A machine as the snapshot layer sees one. `machine` must outlive it.
class MachineSnapshotSource final : public SnapshotSource {
public:
    explicit MachineSnapshotSource(Machine& machine) : machine_(machine) {}

    [[nodiscard]] const MachineConfig& config() const override { return machine_.config(); }
    Status quiesce(const std::function<Status()>& go_on) override { return machine_.quiesce(go_on); }
    void unquiesce() override { machine_.unquiesce(); }
    Result<std::chrono::steady_clock::time_point> freeze() override { return machine_.freeze(); }
    std::chrono::steady_clock::time_point thaw() override { return machine_.thaw(); }
    Result<SavedMachine> save() override { return machine_.save(); }
    [[nodiscard]] const GuestMemory& memory() const override { return machine_.memory(); }
    [[nodiscard]] DirtyFeed* dirty() override { return machine_.dirty(); }
    [[nodiscard]] bool can_tell_free_pages() const override { return machine_.can_tell_free_pages(); }
    void add_free_pages(DirtySet& into) override { machine_.add_free_pages(into); }
    Result<std::uint64_t> release_free(std::uint64_t most, const std::function<Status()>& go_on) override {
        return machine_.release_free(most, go_on);
    }
    void give_back() override { machine_.give_back(); }

private:
    Machine& machine_;
};

}  // namespace snapvm::api
