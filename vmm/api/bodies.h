// SPDX-License-Identifier: Apache-2.0
// Request bodies and queries, from untrusted text. No sockets here: the fuzzer calls these directly.
//
// Every function fails with a message that says which field is wrong. Unknown and repeated fields are refused, as Firecracker
// does, so that a misspelt option is never silently ignored.
#pragma once

#include <string_view>

#include "vmm/api/service.h"
#include "vmm/base/error.h"

namespace snapvm::api {

/// Largest body: 64 KiB of fields and as much metadata.
inline constexpr std::size_t kMaxBody = 128 << 10;

/// PATCH /vm.
enum class VmStateRequest : std::uint8_t { pause, resume };
Result<VmStateRequest> parse_vm_state(std::string_view body);

/// PUT /snapshot/create.
struct SnapshotCreateBody {
    SnapshotRequest request;
    /// It names `mem_file_path`, as Firecracker's clients must: they expect 204 and no result.
    bool firecracker = false;
    bool wait = true;  ///< answer when it is done, not when it has begun
};
Result<SnapshotCreateBody> parse_snapshot_create(std::string_view body);

/// PUT /snapshot/load: only whether it is well-formed, since a machine that is there already cannot be loaded over.
Status check_snapshot_load(std::string_view body);

/// PATCH /balloon: the size in bytes.
Result<std::uint64_t> parse_balloon_update(std::string_view body);

/// PATCH /balloon/statistics: seconds between questions.
Result<std::uint16_t> parse_balloon_statistics_update(std::string_view body);

/// PUT /stop. An empty body means the defaults.
Result<StopRequest> parse_stop(std::string_view body);

/// PUT /console/size.
Result<TerminalSize> parse_terminal_size(std::string_view body);

/// GET /wait: what is behind the question mark, percent-encoded.
Result<WaitRequest> parse_wait(std::string_view query);

/// %-encodes all but letters, digits and -._~ (RFC 3986, section 2.3).
[[nodiscard]] std::string percent_encode(std::string_view text);

}  // namespace snapvm::api
