# SPDX-License-Identifier: Apache-2.0
# snapvm_module(NAME DIR sources... [DEPENDS modules...] [PRIVATE_DEPENDS targets...]
#               [PUBLIC_HEADERS names...] [PRECOMPILED target]) makes one library of the layers.
#
# A module sees its own headers and those of the modules that it depends on, and no others: each has
# an include root of its own, in which only its folder appears, and those headers of
# vmm/include/snapvm that it implements (PUBLIC_HEADERS). So an include against the layers does not
# build.
find_package(Threads REQUIRED)

add_library(snapvm_options INTERFACE)
target_compile_options(snapvm_options INTERFACE
    -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wunused -Woverloaded-virtual
    $<$<BOOL:${SNAPVM_WERROR}>:-Werror> -fno-strict-aliasing
    # GCC 12 reports overlapping copies in std::string operator+ that do not exist (GCC bug 105651).
    $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
    # GCC also takes an empty std::optional's storage for a value that is used (GCC bug 80635).
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
    # libstdc++ 12's stable_sort uses a function that it has deprecated itself. Only clang reports
    # it.
    $<$<CXX_COMPILER_ID:Clang>:-Wno-deprecated-declarations>)
target_link_libraries(snapvm_options INTERFACE Threads::Threads)

set_property(GLOBAL PROPERTY SNAPVM_MODULES "")

# snapvm_precompiled_headers(TARGET OWNER HEADERS...) gives a target the precompiled headers of
# OWNER, which precompiles HEADERS if it is the target itself. Both have the same compiler options.
#
# A precompiled header saves time and nothing else: each file includes what it uses. The presets
# that use clang build without, so an include that is missing does not compile there.
function(snapvm_precompiled_headers target owner)
    if(NOT SNAPVM_PCH)
        return()
    endif()
    if(target STREQUAL owner)
        target_precompile_headers(${target} PRIVATE ${ARGN})
    else()
        target_precompile_headers(${target} REUSE_FROM ${owner})
    endif()
endfunction()

# What most files of most modules include. Every module may see vmm/base, so these headers open no
# way around the layers.
set(snapvm_common_headers
    <algorithm> <array> <atomic> <bit> <cerrno> <chrono> <condition_variable> <cstddef> <cstdint> <cstdio> <cstring>
    <functional> <limits> <memory> <mutex> <optional> <span> <string> <string_view> <thread> <utility> <vector>
    <vmm/base/bytes.h> <vmm/base/error.h> <vmm/base/fd.h> <vmm/base/try.h>)

function(snapvm_module name dir)
    cmake_parse_arguments(arg "" "PRECOMPILED" "DEPENDS;PRIVATE_DEPENDS;PUBLIC_HEADERS" ${ARGN})
    set(root ${CMAKE_BINARY_DIR}/include-roots/${name})
    list(TRANSFORM arg_PUBLIC_HEADERS PREPEND vmm/include/snapvm/)
    foreach(link ${dir} ${arg_PUBLIC_HEADERS})
        get_filename_component(parent ${root}/${link} DIRECTORY)
        file(MAKE_DIRECTORY ${parent})
        if(NOT EXISTS ${root}/${link})
            file(CREATE_LINK ${PROJECT_SOURCE_DIR}/${link} ${root}/${link} SYMBOLIC)
        endif()
    endforeach()
    set(depends ${arg_DEPENDS})
    list(TRANSFORM depends PREPEND snapvm_)
    if(NOT arg_UNPARSED_ARGUMENTS)  # headers only
        add_library(snapvm_${name} INTERFACE)
        target_include_directories(snapvm_${name} INTERFACE ${root})
        target_link_libraries(snapvm_${name} INTERFACE ${depends})
        return()
    endif()
    add_library(snapvm_${name} STATIC ${arg_UNPARSED_ARGUMENTS})
    target_include_directories(snapvm_${name} PUBLIC ${root})
    if(arg_PUBLIC_HEADERS)
        target_include_directories(snapvm_${name} PUBLIC ${root}/vmm/include)
    endif()
    target_link_libraries(snapvm_${name} PUBLIC snapvm_options ${depends} PRIVATE ${arg_PRIVATE_DEPENDS})
    set_property(GLOBAL APPEND PROPERTY SNAPVM_MODULES snapvm_${name})
    if(NOT arg_PRECOMPILED)
        set(arg_PRECOMPILED snapvm_base)
    endif()
    snapvm_precompiled_headers(snapvm_${name} ${arg_PRECOMPILED} ${snapvm_common_headers})
endfunction()
