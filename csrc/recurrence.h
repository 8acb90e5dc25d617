// Clips whose frames build on each other, spread over threads.
#pragma once

#include <algorithm>
#include <barrier>
#include <cstdint>

#include "parallel.h"
#include "scratch.h"

namespace f2f {

// Calls step(clip, k, scratch, first, end) for every clip, its frames k in order, and rows first..end-1 of each; a
// frame is begun when all rows of the one before are done. `scratch` holds so many values, of the clip alone. As many
// clips as keep every thread busy go one to a thread; what remains is cut into rows.
template <typename T, typename Step>
void run_recurrence(std::int64_t clips, std::int64_t frames, std::int64_t height, std::int64_t scratch_values,
                    int threads, const Step& step) {
    const std::int64_t whole = clips - clips % threads;
    parallel_for(whole, threads, [&](std::int64_t clip) {
        const Scratch<T> scratch = make_scratch<T>(scratch_values);
        for (std::int64_t k = 0; k < frames; ++k) step(clip, k, scratch.get(), 0, height);
    });
    if (whole == clips) return;
    const Scratch<T> scratch = make_scratch<T>(scratch_values);
    const int members = static_cast<int>(std::min<std::int64_t>(threads, height));
    std::barrier barrier(members);
    run_team(members, [&](int member) {
        const std::int64_t first = part_begin(height, member, members), end = part_begin(height, member + 1, members);
        for (std::int64_t clip = whole; clip < clips; ++clip)
            for (std::int64_t k = 0; k < frames; ++k) {
                step(clip, k, scratch.get(), first, end);
                barrier.arrive_and_wait();
            }
    });
}

// Where frame k of a clip is written if only the last one is kept: in turn the scratch and the output, such that the
// last one ends in the output.
template <typename T>
T* place_in_turn(T* output, T* scratch, std::int64_t frames, std::int64_t k) {
    return (frames - 1 - k) % 2 == 0 ? output : scratch;
}

}  // namespace f2f
