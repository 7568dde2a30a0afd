// SPDX-License-Identifier: Apache-2.0
// A load that checks itself: memory, processes, timers and clocks. It prints LOAD BAD if a restored
// machine mixes two moments, or lost a page, a timer or a clock. Its parts are processes, forked
// before any of them has memory of its own, so that forks stay cheap.
#include "guest-images/linux/tool/tool.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <csignal>
#include <initializer_list>

namespace tool {
namespace {

constexpr int max_writers = 8;
constexpr uint64_t words_a_page = 512;
constexpr char status_path[] = "/run/load";
constexpr int64_t second = 1'000'000'000;

// Memory that the parts share.
struct Board {
    std::atomic<bool> stop;
    std::atomic<uint64_t> steps[max_writers];  // pages written
    std::atomic<uint64_t> forks;
    std::atomic<uint64_t> sleeps;
    std::atomic<uint64_t> ticks;
    std::atomic<int64_t> newest;  // the latest monotonic time that any part has read
    std::atomic<bool> bad;
    char why[160];
};
Board* board;

// Stops all parts. The first one that finds a fault reports it.
[[noreturn]] void bad(const char* what, uint64_t at, uint64_t expected, uint64_t found) {
    if (!board->bad.exchange(true))
        std::snprintf(board->why, sizeof board->why, "%s at=%llu expected=%llu found=%llu", what,
                      static_cast<unsigned long long>(at), static_cast<unsigned long long>(expected),
                      static_cast<unsigned long long>(found));
    board->stop = true;
    std::_Exit(1);
}

// Reads CLOCK_MONOTONIC, which never goes back on any processor.
int64_t time_going_forward() {
    int64_t newest = board->newest;
    const int64_t now = now_ns(CLOCK_MONOTONIC);
    if (now < newest) bad("monotonic clock went back", 0, static_cast<uint64_t>(newest), static_cast<uint64_t>(now));
    while (newest < now && !board->newest.compare_exchange_weak(newest, now)) continue;
    return now;
}

uint64_t scrambled(uint64_t x) {
    x ^= x >> 33;
    x *= 0xFF51AFD7ED558CCDULL;
    x ^= x >> 33;
    return x;
}

// A page contains its number, its generation, 509 words made from both, and the sum of these. A
// table repeats the generations, a variable has their total, and each writer remembers how far the
// others were. So pages, table, stack and board must be of one moment.
class Writer {
public:
    Writer(int number, int writers, uint64_t pages) : number_(number), writers_(writers), pages_(pages) {
        const size_t size = pages * (words_a_page + 1) * sizeof(uint64_t);
        void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) die("memory");
        words_ = static_cast<uint64_t*>(memory);
        generations_ = words_ + pages * words_a_page;
        for (uint64_t page = 0; page < pages_; page++) write(page);
    }

    void run() {
        uint64_t state = static_cast<uint64_t>(number_) + 1;
        while (!board->stop) {
            for (int i = 0; i < 64; i++) {
                state = scrambled(state + 0x9E3779B97F4A7C15ULL);
                const uint64_t page = state % pages_;
                verify(page);
                generations_[page]++;
                total_++;
                write(page);
                board->steps[number_].fetch_add(1);
            }
            look_around();
        }
        uint64_t sum = 0;
        for (uint64_t page = 0; page < pages_; page++) {
            verify(page);
            sum += generations_[page];
        }
        if (sum != total_) bad("total of generations", 0, total_, sum);
    }

private:
    void write(uint64_t page) {
        uint64_t* words = words_ + page * words_a_page;
        const uint64_t generation = generations_[page];
        words[0] = page;
        words[1] = generation;
        uint64_t sum = page + generation;
        for (uint64_t i = 2; i < words_a_page - 1; i++) sum += words[i] = scrambled(page << 40 ^ generation << 12 ^ i);
        words[words_a_page - 1] = sum;
    }

    void verify(uint64_t page) {
        const uint64_t* words = words_ + page * words_a_page;
        if (words[0] != page) bad("number of page", page, page, words[0]);
        if (words[1] != generations_[page]) bad("generation of page", page, generations_[page], words[1]);
        uint64_t sum = 0;
        for (uint64_t i = 0; i < words_a_page - 1; i++) sum += words[i];
        if (sum != words[words_a_page - 1]) bad("sum of page", page, words[words_a_page - 1], sum);
    }

    void look_around() {
        time_going_forward();
        if (board->steps[number_] != total_)
            bad("own steps of writer", static_cast<uint64_t>(number_), total_, board->steps[number_]);
        for (int other = 0; other < writers_; other++) {
            const uint64_t steps = board->steps[other];
            if (steps < seen_[other]) bad("steps of writer", static_cast<uint64_t>(other), seen_[other], steps);
            seen_[other] = steps;
        }
    }

    int number_;
    int writers_;
    uint64_t pages_;
    uint64_t* words_ = nullptr;
    uint64_t* generations_ = nullptr;
    uint64_t total_ = 0;
    uint64_t seen_[max_writers] = {};
};

// Each child executes a shell and must return the exit code that it was given.
void fork_and_exec() {
    while (!board->stop) {
        const int code = static_cast<int>(board->forks % 200);
        char script[16];
        std::snprintf(script, sizeof script, "exit %d", code);
        const pid_t child = fork();
        if (child == 0) {
            execl("/bin/sh", "sh", "-c", script, nullptr);
            std::_Exit(255);
        }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) != child)
            bad("fork", board->forks, 0, static_cast<uint64_t>(errno));
        if (!WIFEXITED(status) || WEXITSTATUS(status) != code)
            bad("exit status of child", board->forks, static_cast<uint64_t>(code), static_cast<uint64_t>(status));
        time_going_forward();
        board->forks.fetch_add(1);
    }
}

// A sleep must not end before its time.
void sleep_and_look() {
    while (!board->stop) {
        const int64_t until = time_going_forward() + 10'000'000;
        const timespec when{until / second, until % second};
        if (const int error = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, nullptr); error != 0)
            bad("sleep", board->sleeps, 0, static_cast<uint64_t>(error));
        const int64_t now = time_going_forward();
        if (now < until)
            bad("sleep ended early", board->sleeps, static_cast<uint64_t>(until), static_cast<uint64_t>(now));
        board->sleeps.fetch_add(1);
    }
}

// A periodic timer must have expired as often as its clock says, however long a pause was.
void count_expirations() {
    constexpr int64_t period = 20'000'000;
    const int timer = check(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), "timerfd_create");
    const int64_t start = now_ns(CLOCK_MONOTONIC);
    const int64_t first = start + period;
    const itimerspec setting{{0, period}, {first / second, first % second}};
    check(timerfd_settime(timer, TFD_TIMER_ABSTIME, &setting, nullptr), "timerfd_settime");
    uint64_t total = 0;
    while (!board->stop) {
        uint64_t expirations = 0;
        const auto least = static_cast<uint64_t>((now_ns(CLOCK_MONOTONIC) - start) / period);
        if (read(timer, &expirations, sizeof expirations) != sizeof expirations)
            bad("timerfd", total, 0, static_cast<uint64_t>(errno));
        const auto most = static_cast<uint64_t>((time_going_forward() - start) / period);
        total += expirations;
        if (total < least) bad("timer lost expirations", total, least, total);
        if (total > most) bad("timer expired too often", total, most, total);
        board->ticks.fetch_add(1);
    }
}

void status(std::FILE* file, const char* verdict) {
    uint64_t steps = 0;
    for (const auto& each : board->steps) steps += each;
    std::fprintf(file, "LOAD %s steps=%llu forks=%llu sleeps=%llu ticks=%llu\n", verdict,
                 static_cast<unsigned long long>(steps), static_cast<unsigned long long>(board->forks),
                 static_cast<unsigned long long>(board->sleeps), static_cast<unsigned long long>(board->ticks));
}

// Replaces the file in one step, so that a reader finds a whole line in it.
void write_status() {
    char path[sizeof status_path + 4];
    std::snprintf(path, sizeof path, "%s.new", status_path);
    std::FILE* file = std::fopen(path, "we");
    if (file == nullptr) die(path);
    status(file, "RUNNING");
    std::fclose(file);
    check(rename(path, status_path), status_path);
}

void start_part(void (*part)()) {
    if (check(fork(), "fork") != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    std::signal(SIGTERM, SIG_IGN);  // a signal to all processes stops the parent, which tells the parts
    part();
    std::_Exit(0);
}

int writers;
uint64_t pages;
int next_writer;

void write_and_verify() { Writer(next_writer, writers, pages).run(); }

}  // namespace

int run_load(int count, char** arguments) {
    const bool forever = std::strcmp(arguments[0], "forever") == 0;
    uint64_t seconds = forever ? UINT64_MAX : number(arguments[0], 1'000'000'000);
    writers = static_cast<int>(count > 1 ? number(arguments[1], max_writers) : 2);
    pages = count > 2 ? number(arguments[2], 1 << 24) : 256;
    void* shared = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) die("memory");
    board = static_cast<Board*>(shared);  // zeros

    sigset_t signals;
    sigemptyset(&signals);
    for (const int signal : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&signals, signal);
    int parts = 3 + writers;
    start_part(fork_and_exec);
    start_part(sleep_and_look);
    start_part(count_expirations);
    for (next_writer = 0; next_writer < writers; next_writer++) start_part(write_and_verify);
    check(sigprocmask(SIG_BLOCK, &signals, nullptr), "sigprocmask");

    while (!board->stop && seconds-- > 0) {
        write_status();
        const timespec wait{1, 0};
        // A part that ends early (SIGCHLD) has reported a fault, or was killed, which is a fault
        // too.
        if (sigtimedwait(&signals, nullptr, &wait) > 0) break;
    }
    board->stop = true;
    bool all_well = true;
    while (parts-- > 0) {
        int result = 0;
        check(wait(&result), "wait");
        all_well = all_well && WIFEXITED(result) && WEXITSTATUS(result) == 0;
    }
    if (all_well) {
        status(stdout, "OK");
        return 0;
    }
    std::printf("LOAD BAD %s\n", board->bad ? board->why : "a part was killed");
    return 1;
}

}  // namespace tool
