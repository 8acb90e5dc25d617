// The permutohedral lattice of one image (Adams, Baek and Davis 2010): where each cell of pixels lies in the space of
// position and colour, and which lattice points are neighbours there. It is built once and filters any number of
// values.
#pragma once

#include <cstdint>
#include <vector>

#include "crf_cells.h"
#include "scratch.h"

namespace f2f {

constexpr int kCorners = kFeatures + 1;

// What a point takes of each neighbour along an axis. With less than the customary half a point is farther from its
// neighbours for the same kernel, so there are fewer points; results come a little nearer to the exact kernel's, too.
constexpr float kNeighbourShare = 0.4f;

struct Lattice {
    std::int64_t vertices;                    // lattice points
    Scratch<std::int32_t> corners;            // [cells, kCorners]
    Scratch<float> weights;                   // [cells, kCorners], barycentric
    std::vector<std::int32_t> sources_begin;  // [vertices + 1], into sources: who has the point as a corner
    Scratch<std::int32_t> sources;            // [cells * kCorners], cells of each point, ascending
    Scratch<float> source_weights;            // [cells * kCorners], the same weights in this order
    Scratch<std::int32_t> neighbours;         // [kCorners axes, 2, vertices]; `vertices` where there is none
};

// Throws std::invalid_argument where the image spans too many standard deviations to be numbered.
void check_reach(std::int64_t height, std::int64_t width, const Bilateral& deviations);

Lattice make_lattice(const Cells& cells, const Bilateral& deviations, int threads);

}  // namespace f2f
