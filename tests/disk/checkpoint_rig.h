// SPDX-License-Identifier: Apache-2.0
// What the tests of checkpoints share: random writes with a model, and what qemu-img says that a
// checkpoint holds.
#pragma once

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "devices/disk/qcow2/checkpoint.h"
#include "tests/disk/qcow2_disk.h"
#include "tests/support/need.h"

namespace snapvm::disk::test_rig {

using qcow2::Checkpoint;
using qcow2::NewCheckpoint;
using qcow2::SizeChange;

inline Result<Checkpoint> save(Opened& opened, const std::string& name) {
    NewCheckpoint what;
    what.name = name;
    what.seconds = 1'600'000'000;
    what.nanoseconds = 5;
    what.guest_nanoseconds = 7'000'000'000;
    return opened.run(qcow2::save_checkpoint(opened.image(), what));
}
inline Status revert(Opened& opened, const std::string& name, SizeChange size = SizeChange::refuse) {
    return opened.run(qcow2::revert_to_checkpoint(opened.image(), name, size));
}
inline Status remove(Opened& opened, const std::string& name) {
    return opened.run(qcow2::remove_checkpoint(opened.image(), name));
}
inline std::vector<std::string> names(Opened& opened) {
    std::vector<std::string> result;
    for (const Checkpoint& one : snapvm::test::need(opened.run(qcow2::list_checkpoints(opened.image())))) {
        result.push_back(one.name);
    }
    return result;
}

/// Executes random changes, and does the same to the model.
inline void change(Opened& opened, Bytes& model, unsigned times, std::mt19937_64& random) {
    for (unsigned i = 0; i < times; ++i) {
        Request request = random_request(0, model.size() / kSector * kSector, random);
        if (request.kind == Request::Kind::read || request.kind == Request::Kind::discard) {
            continue;
        }
        ASSERT_TRUE(ok(opened.run(execute(opened.image(), request))));
        const auto begin = model.begin() + static_cast<std::ptrdiff_t>(request.offset);
        if (request.kind == Request::Kind::write) {
            std::ranges::copy(request.bytes, begin);
        } else {
            std::fill_n(begin, request.size, kZero);
        }
    }
}

inline void close(Opened& opened) { ASSERT_TRUE(ok(opened.run(opened->close()))); }

/// Returns what qemu-img reads from the disk, or from one of its checkpoints.
inline Bytes qemu_reads(const Disk& disk, const std::string& checkpoint = {}) {
    const std::string raw = disk.folder.file("read.raw");
    std::vector<std::string> words = {"convert", "-f", "qcow2", "-O", "raw"};
    if (!checkpoint.empty()) {
        words.insert(words.end(), {"-l", "snapshot.name=" + checkpoint});
    }
    words.insert(words.end(), {disk.chain.front().path, raw});
    qemu_img(words);
    return read_file(raw);
}

}  // namespace snapvm::disk::test_rig
