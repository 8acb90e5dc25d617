// Spreads independent pieces of work over threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace f2f {

// Calls work(i) once for every i in 0..pieces-1 on up to `threads` threads; rethrows the first exception.
template <typename Work>
void parallel_for(std::int64_t pieces, int threads, const Work& work) {
    std::atomic<std::int64_t> next{0};
    std::exception_ptr failure;
    std::mutex failure_lock;
    const auto take_pieces = [&] {
        try {
            for (std::int64_t i = next++; i < pieces; i = next++) work(i);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(failure_lock);
            failure = std::current_exception();
            next = pieces;
        }
    };
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads && i < pieces; ++i) helpers.emplace_back(take_pieces);
    take_pieces();
    for (std::thread& helper : helpers) helper.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace f2f
