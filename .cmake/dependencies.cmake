# SPDX-License-Identifier: Apache-2.0
# Libraries, all from Debian 12 packages. Debian's liburing, libblkid and Boost headers come with pkg-config files or none at all.
find_package(PkgConfig REQUIRED)
# pkg-config names -luring and CMake turns it into a file: for a static program that file must be the archive.
if(SNAPVM_STATIC)
    set(CMAKE_FIND_LIBRARY_SUFFIXES .a)
endif()
pkg_check_modules(LIBURING REQUIRED IMPORTED_TARGET liburing)
pkg_check_modules(BLKID REQUIRED IMPORTED_TARGET blkid)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Boost 1.81 REQUIRED)
