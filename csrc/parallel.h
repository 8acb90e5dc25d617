// Spreads work over threads of our own: no second OpenMP beside torch's, nothing left behind that a fork would break.
#pragma once

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace f2f {

// Keeps the first exception thrown by any thread.
class Failure {
  public:
    template <typename Work>
    void guard(const Work& work) {
        try {
            work();
        } catch (...) {
            const std::lock_guard<std::mutex> lock(lock_);
            if (!first_) first_ = std::current_exception();
        }
    }
    void rethrow() const {
        if (first_) std::rethrow_exception(first_);
    }

  private:
    std::mutex lock_;
    std::exception_ptr first_;
};

// Calls work(member) for every member in 0..members-1, each on a thread of its own (the caller is the first).
// Members must not throw between barriers; allocate before.
template <typename Work>
void run_team(int members, const Work& work) {
    Failure failure;
    std::vector<std::thread> helpers;
    for (int member = 1; member < members; ++member)
        helpers.emplace_back([&, member] { failure.guard([&] { work(member); }); });
    failure.guard([&] { work(0); });
    for (std::thread& helper : helpers) helper.join();
    failure.rethrow();
}

// Calls work(i) once for every i in 0..pieces-1 on up to `threads` threads.
template <typename Work>
void parallel_for(std::int64_t pieces, int threads, const Work& work) {
    if (pieces <= 0) return;
    std::atomic<std::int64_t> next{0};
    run_team(static_cast<int>(std::min<std::int64_t>(threads, pieces)), [&](int) {
        for (std::int64_t i = next++; i < pieces; i = next++) work(i);
    });
}

// How many of the threads are worth starting for work of about so many nanoseconds: to start one takes some 50 µs.
inline int threads_for(double nanoseconds, int threads) {
    constexpr double per_thread = 2e5;
    return std::clamp(static_cast<int>(std::min(nanoseconds / per_thread, 1e6)), 1, threads);
}

// A range of `size` things, cut into `parts` nearly equal ones: where part number `part` begins.
inline std::int64_t part_begin(std::int64_t size, std::int64_t part, std::int64_t parts) { return size * part / parts; }

}  // namespace f2f
