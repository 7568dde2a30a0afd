// SPDX-License-Identifier: Apache-2.0
#include "guest-images/ledger/device_service.h"

#include "guest-images/ledger/layout.h"
#include "guest-images/ledger/serial.h"
#include "guest-images/ledger/virtio/balloon.h"
#include "guest-images/ledger/virtio/console.h"

namespace snapvm::guest {
namespace {

using ledger::kPageBytes;

// The balloon, and the memory for it, all of which is in use when the balloon has none of it: each page holds a word that says which page it
// is and how often it has been taken into use.
class LentMemory {
public:
    void start(const Options& options) {
        pages_ = options.balloon / kPageBytes;
        base_ = take_memory(options.balloon, "balloon does not fit the memory in one piece");
        uses_ = reinterpret_cast<u32*>(take_memory(pages_ * sizeof(u32), "no memory for the balloon's books"));
        use(0, pages_);
        there_ = balloon_.start(options.ring_features, base_, options.balloon, false);
    }
    void serve() {
        if (!there_) return;
        const u64 before = balloon_.held();
        balloon_.serve();
        use(balloon_.held(), before);
    }
    void check() const {
        for (u64 page = balloon_.held(); page < pages_; ++page)
            if (word(page) != expected(page)) virtio::broken(virtio::Type::balloon, "memory that it does not hold has changed");
    }

private:
    volatile u64& word(u64 page) const { return *reinterpret_cast<volatile u64*>(base_ + page * kPageBytes); }
    u64 expected(u64 page) const { return ledger::mix(base_ + page * kPageBytes) + uses_[page]; }
    void use(u64 first, u64 end) {
        for (u64 page = first; page < end; ++page) {
            ++uses_[page];
            word(page) = expected(page);
        }
    }

    virtio::Balloon balloon_;
    bool there_ = false;
    u64 base_ = 0, pages_ = 0;
    u32* uses_ = nullptr;
};

// Sends what comes back from where it is.
void send_back(virtio::Duplex& duplex) {
    do {
        for (virtio::Duplex::Piece piece; duplex.receive(piece);) duplex.send(piece.address, piece.size, piece.number);
        for (u64 number; duplex.sent(number);) duplex.give_back(static_cast<u32>(number));
        duplex.submit();
    } while (!duplex.ask_for_interrupt());
}

constinit LentMemory lent;
constinit virtio::Console console;
bool has_console = false;

}  // namespace

void start_devices(const Options& options) {
    if (options.balloon != 0) lent.start(options);
    if (!options.echo) return;
    has_console = console.start(options.ring_features);
    Line().text("LEDGER ECHO console=").number(has_console).print();
}

void serve_devices() {
    lent.serve();
    if (has_console) send_back(console.port());
}

void check_devices() { lent.check(); }

}  // namespace snapvm::guest
