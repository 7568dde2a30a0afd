// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/options.h"

#include "guest-images/ledger/power.h"

namespace snapvm::guest {
namespace {

// Returns the value after KEY=, nullptr if `word` does not start with that.
const char* value_of(const char* word, const char* key) {
    while (*key != 0 && *word == *key) {
        ++word;
        ++key;
    }
    return *key == 0 && *word == '=' ? word + 1 : nullptr;
}

bool ends_word(char c) { return c == 0 || c == ' '; }

bool is(const char* value, const char* name) {
    while (*name != 0 && *value == *name) {
        ++value;
        ++name;
    }
    return *name == 0 && ends_word(*value);
}

// Parses a decimal number with an optional K, M or G. Ends the guest if it is none.
u64 number(const char* value) {
    u64 n = 0;
    const char* at = value;
    for (; *at >= '0' && *at <= '9'; ++at) n = n * 10 + static_cast<u64>(*at - '0');
    if (at == value) panic("option without a number");
    if (*at == 'K')
        n <<= 10;
    else if (*at == 'M')
        n <<= 20;
    else if (*at == 'G')
        n <<= 30;
    else
        --at;
    if (!ends_word(at[1])) panic("option is not a number");
    return n;
}

Pattern pattern(const char* value) {
    if (is(value, "seq")) return Pattern::sequential;
    if (is(value, "random")) return Pattern::random;
    if (is(value, "hot")) return Pattern::hot;
    panic("pattern is not seq, random or hot");
}

u64 ring_features(const char* value) {
    if (is(value, "plain")) return 0;
    panic("virtio is not plain");
}

void parse_word(Options& o, const char* word) {
    const char* v = nullptr;
    if ((v = value_of(word, "ws"))) {
        o.working_set = number(v);
        o.working_set_given = true;
    } else if ((v = value_of(word, "gap")))
        o.gap = number(v);
    else if ((v = value_of(word, "cpus")))
        o.cpus = static_cast<u32>(number(v));
    else if ((v = value_of(word, "hz")))
        o.hz = static_cast<u32>(number(v));
    else if ((v = value_of(word, "rate")))
        o.rate = number(v);
    else if ((v = value_of(word, "steps")))
        o.steps = number(v);
    else if ((v = value_of(word, "pattern")))
        o.pattern = pattern(v);
    else if ((v = value_of(word, "hotset")))
        o.hot_set = number(v);
    else if ((v = value_of(word, "zero")))
        o.zero_percent = static_cast<u32>(number(v));
    else if ((v = value_of(word, "dup")))
        o.dup_percent = static_cast<u32>(number(v));
    else if ((v = value_of(word, "seed")))
        o.seed = number(v);
    else if ((v = value_of(word, "seen")))
        o.seen_every = number(v);
    else if ((v = value_of(word, "stir")))
        o.stir = number(v);
    else if ((v = value_of(word, "stirrate")))
        o.stir_rate = number(v);
    else if ((v = value_of(word, "beat")))
        o.beat = number(v) != 0;
    else if ((v = value_of(word, "quiet")))
        o.quiet = number(v) != 0;
    else if ((v = value_of(word, "paused")))
        o.paused = number(v) != 0;
    else if ((v = value_of(word, "balloon")))
        o.balloon = number(v);
    else if ((v = value_of(word, "echo")))
        o.echo = number(v) != 0;
    else if ((v = value_of(word, "load")))
        o.load = number(v);
    else if ((v = value_of(word, "loadrx")))
        o.load_rx = number(v);
    else if ((v = value_of(word, "virtio")))
        o.ring_features = ring_features(v);
    else if ((v = value_of(word, "disk")))
        o.disk = number(v) != 0;
    else if ((v = value_of(word, "disksize")))
        o.disk_size = number(v);
    else if ((v = value_of(word, "diskevery")))
        o.disk_every = number(v);
}

}  // namespace

Options parse_options(const char* at) {
    Options o;
    while (*at != 0) {
        while (*at == ' ') ++at;
        if (*at != 0) parse_word(o, at);
        while (!ends_word(*at)) ++at;
    }
    if (o.zero_percent > 100 || o.dup_percent > 100 - o.zero_percent) panic("zero and dup exceed 100");
    if (o.cpus > MAX_CPUS) panic("more than 8 cpus");
    if (o.hz > 10000) panic("hz above 10000");
    if (o.gap % ledger::kPageBytes != 0) panic("gap is no multiple of 4K");
    if (o.stir % ledger::kPageBytes != 0) panic("stir is no multiple of 4K");
    if (o.working_set < ledger::kPageBytes) panic("ws below 4K");
    if (o.disk_every == 0) panic("diskevery is 0");
    if (o.load_rx == 0 || o.load_rx > 64 << 10) panic("loadrx is not 1 to 64K");
    if (o.balloon % ledger::kPageBytes != 0) panic("balloon is no multiple of 4K");
    if (o.load != 0 && (o.balloon != 0 || o.disk || o.echo))
        panic("load wants the devices of balloon, disk and echo for itself");
    if (o.seen_every == 0) panic("seen is 0");
    if (o.rate > 100000000) panic("rate above 100000000");
    if (o.stir_rate > 0 && o.hz == 0) panic("stirrate without ticks");
    return o;
}

}  // namespace snapvm::guest
