# SPDX-License-Identifier: Apache-2.0
# What the presets of CMakePresets.json stand for. Everything here applies to all targets, so it
# comes before the first of them.

if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release or Sanitize" FORCE)
endif()

# Release uses -O2: -O3 was no faster (the work is in the kernel and in memcpy) and makes a larger
# file to load. With sections of their own, unused functions and data are dropped by the linker.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG -ffunction-sections -fdata-sections")
set(CMAKE_CXX_FLAGS_DEBUG "-O0 -g")
# Sanitize uses -O1 and line tables only: sanitizers at -O0 make guests time out on a KVM that
# emulates kernel mode.
set(CMAKE_CXX_FLAGS_SANITIZE "-O1 -gline-tables-only -fno-omit-frame-pointer")

find_program(SNAPVM_CCACHE ccache)
if(SNAPVM_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
    # Without this, ccache does not cache what uses a precompiled header.
    set(CMAKE_CXX_COMPILER_LAUNCHER
        ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${SNAPVM_CCACHE})
endif()

set(SNAPVM_SANITIZE "" CACHE STRING "Comma-separated sanitizers for everything we compile (clang)")
if(SNAPVM_SANITIZE)
    add_compile_options(-fsanitize=${SNAPVM_SANITIZE} -fno-sanitize-recover=all)
    add_link_options(-fsanitize=${SNAPVM_SANITIZE})
    # A sanitizer's run-time library cannot be linked into a static program.
    set(SNAPVM_STATIC OFF)
endif()

# snapvm_program(TARGET) sets the link options of a program that users start.
#
# The code is compiled like all other code (position-independent, Debian's default, so that
# libsnapvm.a fits into embedders' programs too). Only the link differs.
function(snapvm_program target)
    set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
    if(SNAPVM_STATIC)
        target_link_options(${target} PRIVATE -static -no-pie)
    endif()
    if(CMAKE_BUILD_TYPE STREQUAL Release)
        target_link_options(${target} PRIVATE -Wl,--gc-sections -Wl,--as-needed)
    endif()
endfunction()
