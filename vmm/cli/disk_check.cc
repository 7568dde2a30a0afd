// SPDX-License-Identifier: Apache-2.0
// snapvm disk check: compares the reference counts of an image with what refers to its clusters,
// and repairs them.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "devices/disk/disk_file.h"
#include "devices/disk/image/info.h"
#include "devices/disk/io/disk_io.h"
#include "devices/disk/qcow2/check.h"
#include "vmm/base/printable.h"
#include "vmm/base/size_text.h"
#include "vmm/base/try.h"
#include "vmm/cli/disk_image.h"
#include "vmm/cli/output.h"

namespace snapvm::cli {
namespace {

using disk::ImageInfo;
using disk::qcow2::CheckReport;
using Json = nlohmann::ordered_json;

struct CheckCommand {
    std::string image;
    bool repair = false;
};

// The page cache is faster for tables, which are small and read one after the other.
Result<CheckReport> check_qcow2(const ImageInfo& info, bool repair) {
    DiskOptions options;
    options.read_only = !repair;
    options.format = DiskFormat::qcow2;
    options.direct = false;
    auto file = DiskFile::open({}, info.path, options);
    if (!file) {
        return fail(image_error(std::move(file).error()));
    }
    // Read again: another program may have written before the lock was taken.
    disk::qcow2::Header header =
        TRY(disk::qcow2::read_header(file->fd.get(), info.device ? file->size : info.file_bytes, info.path));
    const std::unique_ptr<disk::IoLoop> loop = TRY(disk::IoLoop::make(options.engine, {}));
    disk::DiskIo io(*std::move(file), *loop);
    disk::qcow2::HeaderStore store(std::move(header), io);
    return loop->run(disk::qcow2::check_image(io, store, repair));
}

std::string found(std::uint64_t errors, std::uint64_t leaks) {
    return count_text(errors, "error") + " and " + count_text(leaks, "leaked cluster");
}

void show(const std::string& path, const CheckReport& report, bool good) {
    for (const std::string& line : report.lines) {
        print_line(printable(line));
    }
    if (report.errors > report.lines.size()) {
        print_line("and " + count_text(report.errors - report.lines.size(), "error") + " more");
    }
    if (report.repaired_errors + report.repaired_leaks != 0) {
        print_line(printable(path) + ": repaired " + found(report.repaired_errors, report.repaired_leaks));
    }
    if (good) {
        print_line(printable(path) + ": good, " + std::to_string(report.allocated) + " of " +
                   count_text(report.clusters, "cluster") + " allocated");
    }
}

std::string json_of(const std::string& path, const CheckReport& report) {
    return json_text(Json{{"image", path},
                          {"format", "qcow2"},
                          {"ok", report.errors + report.leaks == 0},
                          {"errors", report.errors},
                          {"leaks", report.leaks},
                          {"repaired_errors", report.repaired_errors},
                          {"repaired_leaks", report.repaired_leaks},
                          {"clusters", report.clusters},
                          {"allocated", report.allocated},
                          {"compressed", report.compressed},
                          {"fragmented", report.fragmented},
                          {"end", report.end},
                          {"lines", report.lines}});
}

Result<int> check_raw(const ImageInfo& info, const Globals& globals) {
    if (globals.json) {
        print_line(json_text(Json{{"image", info.path}, {"format", "raw"}, {"ok", true}}));
    } else {
        print_line(printable(info.path) + ": raw, which has nothing to check");
    }
    return 0;
}

// What recognises the format by the contents is enough here, also for a repair: nothing but this
// file is opened, and in a raw disk that looks like an image only what makes it look so changes.
Result<int> check(const CheckCommand& command, const Globals& globals) {
    const ImageArgument image = TRY(parse_image(command.image));
    const ImageInfo info = TRY(disk::image_info(image.path, image.format));
    if (info.format == "raw") {
        return check_raw(info, globals);
    }
    const CheckReport report = TRY(check_qcow2(info, command.repair));
    const bool good = report.errors + report.leaks == 0;
    if (globals.json) {
        print_line(json_of(info.path, report));
        return good ? 0 : kExitFailure;
    }
    show(info.path, report, good);
    if (good) {
        return 0;
    }
    return fail(ErrorKind::invalid, info.path + " has " + found(report.errors, report.leaks),
                command.repair ? "restore it from a copy, or try \"qemu-img check -r all\" on a copy"
                               : "repair it with --repair; keep a copy if there are errors");
}

}  // namespace

void add_disk_check(Command disk, Globals& globals) {
    auto options = std::make_shared<CheckCommand>();
    Command command = disk.subcommand("check", "check the tables of a disk image, or repair them");
    command.example("snapvm disk check vm.qcow2 --repair");
    command.required("IMAGE", options->image, "a file or a block device, F[,format=raw|qcow2]");
    command.flag("--repair", options->repair, "correct the reference counts, and free what is leaked");
    command.action([=, &globals] { return check(*options, globals); });
}

}  // namespace snapvm::cli
