// SPDX-License-Identifier: Apache-2.0
#include "devices/config/mac_address.h"

#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

namespace snapvm {
namespace {

using test::fails;

TEST(MacAddress, IsReadAndWritten) {
    const MacAddress mac = {2, 0x1F, 0, 0xAB, 0xCD, 0xEF};
    EXPECT_EQ(mac_text(mac), "02:1f:00:ab:cd:ef");
    EXPECT_EQ(*parse_mac("02:1f:00:ab:cd:ef"), mac);
    EXPECT_EQ(*parse_mac("02:1F:00:AB:CD:EF"), mac);
}

TEST(MacAddress, WhatIsNoneIsRefused) {
    for (const char* text :
         {"", "02", "02:1f:00:ab:cd", "02:1f:00:ab:cd:", "02:1f:00:ab:cd:ef:", "02:1f:00:ab:cd:e", "02:1f:00:ab:cd:g0",
          "2:1f:00:ab:cd:efg", "02-1f-00-ab-cd-ef", "02:1f:00:ab:cd: f", "02:1f:00:ab:cd:-1", "0x:1f:00:ab:cd:ef"}) {
        EXPECT_TRUE(fails(parse_mac(text), ErrorKind::usage)) << text;
    }
}

TEST(MacAddress, ARandomOneIsOneInterfacesAndNobodysByPurchase) {
    const MacAddress first = *random_mac();
    bool others = false;
    for (int i = 0; i < 100; ++i) {
        const MacAddress mac = *random_mac();
        EXPECT_EQ(mac[0] & 3, 2);
        others = others || mac != first;
    }
    EXPECT_TRUE(others);
}

}  // namespace
}  // namespace snapvm
