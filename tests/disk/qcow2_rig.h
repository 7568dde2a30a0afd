// SPDX-License-Identifier: Apache-2.0
// An image that qemu-img made, opened as the parts of the qcow2 driver see it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "devices/disk/qcow2/header.h"
#include "devices/disk/qcow2/refcounts.h"
#include "tests/support/command.h"
#include "tests/support/need.h"

namespace snapvm::disk::test_rig {

inline bool has_qemu_img() { return test::run_program({"qemu-img", "--version"}).exit_code == 0; }

/// Runs qemu-img or qemu-io, which must succeed.
inline std::string qemu(std::vector<std::string> words) {
    const test::CommandResult result = test::run_program(std::move(words));
    EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
    return result.out;
}

/// Returns the number that `qemu-img check --output=json` has for `key`; 0 if it has none.
inline std::uint64_t number_of(const std::string& json, const std::string& key) {
    const std::size_t at = json.find("\"" + key + "\":");
    return at == std::string::npos ? 0 : std::stoull(json.substr(at + key.size() + 3));
}
inline std::string qemu_check(const std::string& path) {
    const test::CommandResult result = test::run_program({"qemu-img", "check", "-f", "qcow2", "--output=json", path});
    EXPECT_NE(result.out.find('{'), std::string::npos) << result.err;
    return result.out;
}

/// A file with its header and its loop.
class OpenFile {
public:
    explicit OpenFile(const std::string& path, io::FaultHook hook = {}, bool read_only = false) {
        loop_ = test::need(IoLoop::make(io::EngineKind::automatic, std::move(hook)));
        DiskOptions options;
        options.read_only = read_only;
        file_.emplace(test::need(DiskFile::open("root", path, options)), *loop_);
        std::vector<std::byte> first(std::min<std::uint64_t>(file_->size(), 2ULL << 20));
        test::need(loop_->run(file_->read(0, std::span<std::byte>(first))));
        header_.emplace(test::need(qcow2::parse_header(first, path)), *file_);
    }
    [[nodiscard]] DiskIo& file() { return *file_; }
    [[nodiscard]] qcow2::HeaderStore& header() { return *header_; }
    template <class T>
    T run(Task<T> task) {
        return loop_->run(std::move(task));
    }

private:
    std::unique_ptr<IoLoop> loop_;
    std::optional<DiskIo> file_;
    std::optional<qcow2::HeaderStore> header_;
};

}  // namespace snapvm::disk::test_rig
