// SPDX-License-Identifier: Apache-2.0
// <linux/kvm.h>, made usable from C++; include this, never the kernel's header directly.
#pragma once

#include <linux/stddef.h>

// Linux 6.1's headers build flexible arrays from an empty struct, which has size 1 in C++ and shifts the array (and so changes the
// ioctl numbers, which encode the size). Newer headers spell it this way for C++ themselves.
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[0]

#include <linux/kvm.h>

static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8 && sizeof(kvm_msr_list) == 4 && sizeof(kvm_irq_routing) == 8,
              "KVM's structs with a flexible array must be as the kernel has them");
