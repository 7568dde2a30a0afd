// SPDX-License-Identifier: Apache-2.0
// An image that qemu-img made, opened as the parts of the qcow2 driver see it.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "devices/disk/qcow2/header.h"
#include "devices/disk/qcow2/refcounts.h"
#include "tests/support/command.h"
#include "tests/support/need.h"
#include "tests/support/qemu_img.h"

namespace snapvm::disk::test_rig {

/// Runs qemu-img or qemu-io, which must succeed.
inline std::string qemu(std::vector<std::string> words) {
    const snapvm::test::CommandResult result = snapvm::test::run_program(std::move(words));
    EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
    return result.out;
}

/// Returns the number that `qemu-img check --output=json` has for `key`; 0 if it has none.
inline std::uint64_t number_of(const std::string& json, const std::string& key) {
    const std::size_t at = json.find("\"" + key + "\":");
    return at == std::string::npos ? 0 : std::stoull(json.substr(at + key.size() + 3));
}
inline std::string qemu_check(const std::string& path) {
    const snapvm::test::CommandResult result =
        snapvm::test::run_program({"qemu-img", "check", "-f", "qcow2", "--output=json", path});
    EXPECT_NE(result.out.find('{'), std::string::npos) << result.err;
    return result.out;
}

/// A file with its header and its loop.
class OpenFile {
public:
    explicit OpenFile(const std::string& path, io::FaultHook hook = {}, bool read_only = false) {
        loop_ = snapvm::test::need(IoLoop::make(io::EngineKind::automatic, std::move(hook)));
        DiskOptions options;
        options.read_only = read_only;
        DiskFile file = snapvm::test::need(DiskFile::open("root", path, options));
        auto header = snapvm::test::need(qcow2::read_header(file.fd.get(), std::filesystem::file_size(path), path));
        file_.emplace(std::move(file), *loop_);
        header_.emplace(std::move(header), *file_);
    }
    [[nodiscard]] IoLoop& loop() { return *loop_; }
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
