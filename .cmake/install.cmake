# SPDX-License-Identifier: Apache-2.0
# `cmake --install` installs the binary, one library made of all modules, the public headers with
# their example, and the files by which pkg-config and CMake find them.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

get_property(modules GLOBAL PROPERTY SNAPVM_MODULES)

# snapvm_all has all modules as they are, for our own tests and programs.
add_library(snapvm_all INTERFACE)
target_link_libraries(snapvm_all INTERFACE ${modules})
if(TARGET ledger_image)
    target_link_libraries(snapvm_all INTERFACE ledger_image)
endif()

# snapvm_library has what the public interface (vmm/include/snapvm) needs in one archive.
set(objects ${modules})
list(REMOVE_ITEM objects snapvm_api snapvm_host snapvm_doctor snapvm_cli)
if(TARGET ledger_image)
    list(APPEND objects ledger_image)
endif()
list(TRANSFORM objects REPLACE "(.+)" "$<TARGET_OBJECTS:\\1>")
add_library(snapvm_library STATIC ${objects})
set_target_properties(snapvm_library PROPERTIES OUTPUT_NAME snapvm EXPORT_NAME snapvm LINKER_LANGUAGE CXX)
target_compile_features(snapvm_library INTERFACE cxx_std_23)
target_include_directories(snapvm_library INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(snapvm_library INTERFACE uring blkid z lzma zstd lz4 capstone Threads::Threads)

install(TARGETS snapvm_library EXPORT snapvmTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET snapvm)
    install(TARGETS snapvm RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
    install(FILES ${PROJECT_BINARY_DIR}/snapvm.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
    install(FILES ${PROJECT_BINARY_DIR}/snapvm.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
            RENAME snapvm)
    install(FILES vmm/host/snapvm@.service DESTINATION lib/systemd/system)
endif()
install(DIRECTORY vmm/include/snapvm DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY vmm/include/example DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/snapvm)
install(EXPORT snapvmTargets NAMESPACE snapvm:: DESTINATION ${package_dir})
configure_package_config_file(.cmake/snapvmConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/snapvmConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/snapvmConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/snapvmConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/snapvmConfigVersion.cmake
        DESTINATION ${package_dir})

# The path is relative, so that an installed tree can be moved.
file(RELATIVE_PATH SNAPVM_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(.cmake/snapvm.pc.in ${CMAKE_CURRENT_BINARY_DIR}/snapvm.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/snapvm.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# `./dev package` makes a Debian package of what is installed, without building the tests.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_CONTACT "the snapvm project <snapvm@localhost>")
set(CPACK_PACKAGE_FILE_NAME snapvm_${PROJECT_VERSION}_amd64)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE amd64)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_STRIP_FILES ON)
include(CPack)
