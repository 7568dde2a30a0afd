# SPDX-License-Identifier: Apache-2.0
# snapvm_module(NAME DIR sources... DEPENDS targets...): one library of the layered house.
#
# A module sees its own headers and those of the modules it depends on, and no others: each has an include root of its own, in which
# only its folder appears. So an include against the arrows of the design does not build.
find_package(Threads REQUIRED)

add_library(snapvm_options INTERFACE)
target_compile_options(snapvm_options INTERFACE
    -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wunused -Woverloaded-virtual
    $<$<BOOL:${SNAPVM_WERROR}>:-Werror> -fno-strict-aliasing
    # GCC 12 sees overlapping copies in std::string operator+ that are not there (GCC bug 105651).
    $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
    # And it takes an empty std::optional's storage for a value that is used (GCC bug 80635).
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
    # libstdc++ 12's stable_sort uses a function that it has deprecated itself; only clang tells.
    $<$<CXX_COMPILER_ID:Clang>:-Wno-deprecated-declarations>)
target_link_libraries(snapvm_options INTERFACE Threads::Threads)

set_property(GLOBAL PROPERTY SNAPVM_MODULES "")

function(snapvm_module name dir)
    cmake_parse_arguments(arg "" "" "DEPENDS;PRIVATE_DEPENDS" ${ARGN})
    set(root ${CMAKE_BINARY_DIR}/include-roots/${name})
    get_filename_component(parent ${root}/${dir} DIRECTORY)
    file(MAKE_DIRECTORY ${parent})
    if(NOT EXISTS ${root}/${dir})
        file(CREATE_LINK ${PROJECT_SOURCE_DIR}/${dir} ${root}/${dir} SYMBOLIC)
    endif()
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
    target_link_libraries(snapvm_${name} PUBLIC snapvm_options ${depends} PRIVATE ${arg_PRIVATE_DEPENDS})
    set_property(GLOBAL APPEND PROPERTY SNAPVM_MODULES snapvm_${name})
endfunction()
