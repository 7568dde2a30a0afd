// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/output_pump.h"

#include <chrono>
#include <utility>

#include "vmm/base/thread.h"
#include "vmm/base/try.h"

namespace snapvm {

OutputPump::OutputPump(Line& line, Sink sink) : console_(line.output()), sink_(std::move(sink)) {
    console_.hold_for_reader([&line] { line.output_ready(); });
}

Result<std::unique_ptr<OutputPump>> OutputPump::start(Line& line, Sink sink) {
    std::unique_ptr<OutputPump> pump(new OutputPump(line, std::move(sink)));
    pump->thread_ = TRY(start_thread(ThreadRole::output, [self = pump.get()] { self->run(); }));
    return pump;
}

OutputPump::~OutputPump() {
    if (thread_.joinable()) {
        thread_.join();
    } else {
        console_.release_reader();
    }
}

void OutputPump::run() {
    std::uint64_t position = console_.oldest();
    while (true) {
        const Console::Chunk chunk = console_.read(position, std::chrono::steady_clock::time_point::max());
        if (chunk.bytes.empty()) {
            return;  // the line is closed, and all is passed on
        }
        if (!sink_(chunk.bytes)) {
            console_.release_reader();
            return;
        }
        position = chunk.next;
        console_.consumed(position);
    }
}

}  // namespace snapvm
