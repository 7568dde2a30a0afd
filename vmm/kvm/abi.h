// SPDX-License-Identifier: Apache-2.0
// Makes <linux/kvm.h> usable from C++. All code includes this file, never the kernel's header.
#pragma once

#include <linux/stddef.h>

// Linux 6.1's headers build flexible arrays from an empty struct. Its size is 1 in C++, so the
// array moves and the ioctl numbers, which encode the size, change. Newer headers define the macro
// like this for C++.
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[0]

#include <linux/kvm.h>

static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8 && sizeof(kvm_msr_list) == 4 &&
                  sizeof(kvm_irq_routing) == 8,
              "KVM's structs with a flexible array must be as the kernel has them");
