// SPDX-License-Identifier: Apache-2.0
// A real machine behind the API.
#pragma once

#include <mutex>
#include <string>

#include "vmm/api/service.h"
#include "vmm/machine/machine.h"

namespace snapvm::api {

/// `machine` must outlive it. Any thread but a vCPU's.
class MachineService final : public Service {
public:
    MachineService(Machine& machine, std::string id)
        : id_(std::move(id)), machine_(machine), made_(std::chrono::steady_clock::now()) {}

    [[nodiscard]] std::string id() const override { return id_; }
    [[nodiscard]] ServiceState state() const override;
    [[nodiscard]] const MachineConfig& config() const override { return machine_.config(); }
    [[nodiscard]] ServiceStats stats() const override;
    Status pause() override;
    Status resume() override;
    Result<SnapshotReport> snapshot(const SnapshotRequest& request) override;
    Result<Outcome> stop(const StopRequest& request) override;
    Result<std::optional<WaitResult>> wait(const WaitRequest& request, const GivenUp& given_up) override;
    [[nodiscard]] const Console& console() const override { return machine_.console(); }
    std::size_t send_input(std::span<const std::uint8_t> bytes, std::chrono::steady_clock::time_point deadline) override;

private:
    [[nodiscard]] std::optional<Outcome> outcome() const { return machine_.wait_ended(std::chrono::steady_clock::now()); }
    [[nodiscard]] std::unexpected<Error> ended_error(std::string_view wish) const;

    std::string id_;
    Machine& machine_;
    std::chrono::steady_clock::time_point made_;
    std::timed_mutex snapshot_;  ///< held while one is written; outermost
};

}  // namespace snapvm::api
