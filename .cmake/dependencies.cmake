# SPDX-License-Identifier: Apache-2.0
# All libraries are Debian 12 packages. Debian's liburing, libblkid and Boost headers have
# pkg-config files or none.
find_package(PkgConfig REQUIRED)
# pkg-config names -luring, and CMake looks for that file. For a static program the file must be the
# archive.
if(SNAPVM_STATIC)
    set(CMAKE_FIND_LIBRARY_SUFFIXES .a)
endif()
pkg_check_modules(LIBURING REQUIRED IMPORTED_TARGET liburing)
pkg_check_modules(BLKID REQUIRED IMPORTED_TARGET blkid)
pkg_check_modules(ZLIB REQUIRED IMPORTED_TARGET zlib)
pkg_check_modules(LZMA REQUIRED IMPORTED_TARGET liblzma)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(LZ4 REQUIRED IMPORTED_TARGET liblz4)
pkg_check_modules(CAPSTONE REQUIRED IMPORTED_TARGET capstone)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Boost 1.81 REQUIRED)
