// SPDX-License-Identifier: Apache-2.0
#include "snapshot/area/area_path.h"

#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/memory/gpa.h"

namespace snapvm {

Result<AreaPath> AreaPath::parse(std::string_view text) {
    AreaPath area{std::string(text), 0};
    const std::size_t at = text.rfind('@');
    if (at != std::string_view::npos && at + 1 < text.size() && text[at + 1] >= '0' && text[at + 1] <= '9') {
        area.path = text.substr(0, at);
        area.offset = TRY(parse_size(text.substr(at + 1)));
    }
    if (area.path.empty()) {
        return fail(ErrorKind::usage, "\"" + std::string(text) + "\" names no file", "write PATH or PATH@OFFSET");
    }
    if (area.path.find('\0') != std::string::npos) {
        return fail(ErrorKind::usage, "a path with a NUL byte in it names no file", "write PATH or PATH@OFFSET");
    }
    if (!is_page_aligned(area.offset) || area.offset >= 1ULL << 60) {
        return fail(ErrorKind::usage,
                    "area offset " + std::to_string(area.offset) + " is not a multiple of 4096, or is too large",
                    "give a multiple of 4096");
    }
    return area;
}

std::string AreaPath::text() const { return offset == 0 ? path : path + "@" + size_text(offset); }

}  // namespace snapvm
