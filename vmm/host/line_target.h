// SPDX-License-Identifier: Apache-2.0
// Where the bytes of one of a machine's lines go.
#pragma once

#include <string>

namespace snapvm {

/// `stdio`: stdout takes the output, and stdin is the input. `file`: the file at `path`, which is
/// emptied, takes the output; it is refused if another line's output goes there.
struct LineTarget {
    enum class Kind { stdio, file, none };
    Kind kind = Kind::stdio;
    std::string path;
};

}  // namespace snapvm
