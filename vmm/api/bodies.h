// SPDX-License-Identifier: Apache-2.0
// Parses request bodies and queries, which are untrusted. It uses no sockets, so the fuzzer calls
// it directly.
//
// Each function fails with usage, and its message names the wrong field. Unknown and repeated
// fields are errors, as in Firecracker, so that a misspelt option is not ignored.
#pragma once

#include <string_view>

#include "vmm/base/error.h"
#include "vmm/control/service.h"

namespace snapvm::api {

/// The largest body, in bytes: 64 KiB for fields and 64 KiB for metadata.
inline constexpr std::size_t kMaxBody = 128 << 10;

/// PATCH /vm.
enum class VmStateRequest : std::uint8_t { pause, resume };
Result<VmStateRequest> parse_vm_state(std::string_view body);

/// PUT /snapshot/create.
struct SnapshotCreateBody {
    SnapshotRequest request;
    /// The body has `mem_file_path`, as Firecracker requires. Such a client expects status 204
    /// without a result.
    bool firecracker = false;
    bool wait = true;  ///< answer when the snapshot has ended, not when it has begun
};
Result<SnapshotCreateBody> parse_snapshot_create(std::string_view body);

/// PUT /drives/layers.
Result<LayerRequest> parse_layer(std::string_view body);
/// PUT /snapshot/load. `mem_file_path` and `mem_backend`, as Firecracker requires one of them, must
/// name the area as well.
Result<LoadRequest> parse_snapshot_load(std::string_view body);

/// PATCH /balloon: returns the size in bytes.
Result<std::uint64_t> parse_balloon_update(std::string_view body);

/// PATCH /balloon/statistics: returns the seconds between two requests to the guest.
Result<std::uint16_t> parse_balloon_statistics_update(std::string_view body);

/// PUT /stop. An empty body stands for the defaults.
Result<StopRequest> parse_stop(std::string_view body);

/// PUT /drives/size.
Result<DiskResize> parse_drive_size(std::string_view body);

/// PUT /console/size.
Result<TerminalSize> parse_terminal_size(std::string_view body);

/// GET /wait: parses the query, the percent-encoded part after the question mark.
Result<WaitRequest> parse_wait(std::string_view query);

/// Percent-encodes all characters except letters, digits and -._~ (RFC 3986, section 2.3).
[[nodiscard]] std::string percent_encode(std::string_view text);

}  // namespace snapvm::api
