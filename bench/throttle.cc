// SPDX-License-Identifier: Apache-2.0
// Sources: Linux, Documentation/admin-guide/cgroup-v2.rst (io.max) and
// cgroup-v1/blkio-controller.rst.
#include "bench/throttle.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "snapshot/area/area_path.h"
#include "vmm/base/fd.h"
#include "vmm/base/try.h"

namespace snapvm::bench {
namespace {

constexpr const char* kVersion1 = "/sys/fs/cgroup/blkio";
constexpr const char* kVersion2 = "/sys/fs/cgroup";

Status write_text(const std::string& path, const std::string& text) {
    const UniqueFd file = TRY(open_file(path, O_WRONLY));
    if (::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
        return fail(Error::system("write", path, errno));
    }
    return {};
}

// Returns MAJOR:MINOR of the whole disk, because a partition cannot be limited.
Result<std::string> disk_of(const std::string& target) {
    const std::string path = TRY(AreaPath::parse(target)).path;
    struct stat info{};
    const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
    if (::stat(path.c_str(), &info) != 0 && ::stat(folder.c_str(), &info) != 0) {
        return fail(Error::system("stat", path, errno));
    }
    const dev_t device = S_ISBLK(info.st_mode) ? info.st_rdev : info.st_dev;
    std::string number = std::to_string(major(device)) + ":" + std::to_string(minor(device));
    const std::string sysfs = "/sys/dev/block/" + number;
    if (::access((sysfs + "/partition").c_str(), F_OK) == 0) {
        number = TRY(read_file(sysfs + "/../dev", 64));
        number.erase(number.find_last_not_of('\n') + 1);
    }
    return number;
}

}  // namespace

Result<Throttle> Throttle::on(const std::string& target, std::uint64_t bytes_per_second) {
    const bool old = ::access(kVersion1, F_OK) == 0;
    const std::string disk = TRY(disk_of(target));
    if (!old) {
        (void)write_text(std::string(kVersion2) + "/cgroup.subtree_control", "+io");  // it may be enabled already
    }
    Throttle throttle(std::string(old ? kVersion1 : kVersion2) + "/snapvm-bench-" + std::to_string(::getpid()));
    if (::mkdir(throttle.group_.c_str(), 0755) != 0) {
        return fail(Error::system("mkdir", throttle.group_, errno,
                                  "slow a disk down as root, on a host with the io (blkio) cgroup controller"));
    }
    const std::string rate = std::to_string(bytes_per_second);
    TRY(old ? write_text(throttle.group_ + "/blkio.throttle.write_bps_device", disk + " " + rate)
            : write_text(throttle.group_ + "/io.max", disk + " wbps=" + rate));
    return throttle;
}

Throttle::~Throttle() {
    if (!group_.empty()) {
        ::rmdir(group_.c_str());
    }
}

Status Throttle::add(pid_t process) const { return write_text(group_ + "/cgroup.procs", std::to_string(process)); }

}  // namespace snapvm::bench
