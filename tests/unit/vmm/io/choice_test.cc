// SPDX-License-Identifier: Apache-2.0
// Which engine is made, and what happens if the kernel refuses io_uring, from the start or later.
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <array>
#include <cerrno>
#include <string>

#include "tests/support/child.h"
#include "vmm/base/fd.h"
#include "vmm/io/engine.h"

namespace snapvm::io {
namespace {

using test::in_child;
using test::refuse_call;

constexpr int kSkipped = 77;

/// A write of one byte.
class OneWrite {
public:
    OneWrite() {
        request_.kind = Request::Kind::write;
        request_.fd = file_.get();
        request_.size = 1;
        request_.buffers = {{&byte_, 1}};
    }
    [[nodiscard]] Request& request() { return request_; }
    // Returns the result of the write, which must be the one request in flight; -ETIME if it has
    // not ended.
    static std::int64_t result(Engine& engine) {
        if (!engine.wait()) {
            return -EPROTO;
        }
        const auto ended = engine.reap();
        return ended.size() == 1 && engine.in_flight() == 0 ? ended[0].result : -ETIME;
    }
    std::int64_t run(Engine& engine) {
        engine.add(request_);
        return result(engine);
    }

private:
    UniqueFd file_{::memfd_create("one", MFD_CLOEXEC)};
    std::byte byte_{1};
    Request request_;
};

// What make_engine() does in a process with that SNAPVM_IO, in which io_uring_setup fails with
// `error` unless that is 0: the name of an engine that works, or the error's line.
std::string made(EngineKind kind, const char* wish, int error = 0) {
    std::array<char, 256>* said = static_cast<std::array<char, 256>*>(
        ::mmap(nullptr, sizeof *said, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    const int code = in_child([&] {
        if (wish == nullptr ? ::unsetenv("SNAPVM_IO") != 0 : ::setenv("SNAPVM_IO", wish, 1) != 0) {
            return 1;
        }
        if (error != 0 && !refuse_call(SYS_io_uring_setup, error)) {
            return kSkipped;
        }
        auto engine = make_engine(kind, {});
        std::string text = !engine                         ? engine.error().message()
                           : OneWrite().run(**engine) == 1 ? std::string((*engine)->name())
                                                           : "does not work";
        text.copy(said->data(), said->size() - 1);
        return 0;
    });
    std::string text = code == 0 ? said->data() : "exit code " + std::to_string(code);
    ::munmap(said, sizeof *said);
    return text;
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST(EngineChoice, TheEnvironmentTakesThePlaceOfAutomaticOnly) {
    EXPECT_EQ(made(EngineKind::automatic, nullptr), "io_uring");
    EXPECT_EQ(made(EngineKind::automatic, ""), "io_uring");
    EXPECT_EQ(made(EngineKind::automatic, "uring"), "io_uring");
    EXPECT_EQ(made(EngineKind::automatic, "threads"), "threads");
    EXPECT_EQ(made(EngineKind::uring, "threads"), "io_uring");
    EXPECT_EQ(made(EngineKind::threads, "uring"), "threads");
    const std::string refusal = made(EngineKind::automatic, "thread");
    EXPECT_TRUE(contains(refusal, "SNAPVM_IO=thread") && contains(refusal, "uring or threads")) << refusal;
    EXPECT_EQ(made(EngineKind::threads, "thread"), "threads");
}

TEST(EngineChoice, AutomaticFallsBackToThreadsWhereIoUringIsRefused) {
    for (const int error : {EPERM, ENOSYS, EACCES, ENOMEM}) {
        EXPECT_EQ(made(EngineKind::automatic, nullptr, error), "threads") << error;
        EXPECT_EQ(made(EngineKind::automatic, "threads", error), "threads") << error;
    }
    EXPECT_TRUE(contains(made(EngineKind::automatic, nullptr, EMFILE), "io_uring_setup")) << "no refusal";
}

TEST(EngineChoice, AWishForIoUringIsRefusedAndSaysWhatHelps) {
    for (const std::string& text :
         {made(EngineKind::automatic, "uring", EPERM), made(EngineKind::uring, nullptr, EPERM)}) {
        EXPECT_TRUE(contains(text, "io_uring_setup")) << text;
        EXPECT_TRUE(contains(text, "Operation not permitted")) << text;
        EXPECT_TRUE(contains(text, "SNAPVM_IO=threads")) << text;
    }
}

TEST(EngineChoice, ARingThatIsRefusedLaterEndsItsRequests) {
    EXPECT_EQ(in_child([] {
                  auto engine = make_engine(EngineKind::uring, {});
                  OneWrite write;
                  if (!engine || write.run(**engine) != 1 || !refuse_call(SYS_io_uring_enter, EPERM)) {
                      return 1;
                  }
                  for (int i = 0; i < 3; ++i) {
                      if (write.run(**engine) != -EIO) {
                          return 2 + i;
                      }
                  }
                  engine->reset();
                  return 0;
              }),
              0);
}

TEST(EngineChoice, AKernelWithoutMemoryIsAskedAgainAndNotForEver) {
    EXPECT_EQ(in_child([] {
                  const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
                  auto engine = make_engine(EngineKind::uring, {.event = event.get()});
                  OneWrite write;
                  if (!engine || !refuse_call(SYS_io_uring_enter, EAGAIN)) {
                      return 1;
                  }
                  (*engine)->add(write.request());
                  for (int i = 0; i < 3; ++i) {
                      (*engine)->submit();
                      pollfd wait{event.get(), POLLIN, 0};
                      eventfd_t count = 0;
                      if (::poll(&wait, 1, 0) != 1 || ::eventfd_read(event.get(), &count) != 0) {
                          return 2;  // the owner is not told to try again
                      }
                      if (!(*engine)->reap().empty() || (*engine)->in_flight() != 1) {
                          return 3;
                      }
                  }
                  return OneWrite::result(**engine) == -EIO ? 0 : 4;
              }),
              0);
}

}  // namespace
}  // namespace snapvm::io
