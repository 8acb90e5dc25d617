// Class activation maps of all scales and flips, made as wide and high as the frame block by block. An upsampled value
// never exceeds the CAM's values around it, so whole blocks that cannot raise the peak, or cannot pass the threshold,
// are not looked at. No full-size map of floats ever exists.
#include <algorithm>
#include <cstring>
#include <vector>

#include "check.h"
#include "kernels.h"
#include "parallel.h"
#include "rows.h"
#include "scratch.h"

namespace f2f {
namespace {

constexpr float kPeakEpsilon = 1e-5f;
constexpr float kRounding = 1.0f + 1e-5f;  // more than four roundings can raise a value above what it is made of

constexpr std::int64_t kStrip = 16;  // pixel rows that are judged together, as the columns of a block are

struct Job {
    const std::vector<Cam>& cams;
    const std::int64_t* classes;  // [images, planes]
    std::int64_t images, channels, planes, height, width;
    std::int64_t maps() const { return static_cast<std::int64_t>(cams.size()); }
    std::int64_t words() const { return (planes + 31) / 32; }
};

// First and last of the taps of some pixels.
struct Range {
    std::int32_t first, last;
};

// Of every `size` pixels along an axis.
std::vector<Range> tap_ranges(const Axis& axis, std::int64_t pixels, std::int64_t size) {
    std::vector<Range> ranges;
    for (std::int64_t begin = 0; begin < pixels; begin += size) {
        const std::int64_t end = std::min(pixels, begin + size);
        const auto [low_first, low_last] = std::minmax_element(axis.low + begin, axis.low + end);
        const auto [high_first, high_last] = std::minmax_element(axis.high + begin, axis.high + end);
        ranges.push_back({std::min(*low_first, *high_first), std::max(*low_last, *high_last)});
    }
    return ranges;
}

// The frame cut into tiles of kStrip rows and rows().cam_block columns, and what of each CAM makes a tile.
struct Tiling {
    explicit Tiling(const Job& job) : block(rows().cam_block) {
        for (const Cam& cam : job.cams) {
            strip_rows.push_back(tap_ranges(cam.vertical, job.height, kStrip));
            block_columns.push_back(tap_ranges(cam.horizontal, job.width, block));
        }
        strips = (job.height + kStrip - 1) / kStrip;
        blocks = (job.width + block - 1) / block;
    }
    std::int64_t block, strips, blocks;
    std::vector<std::vector<Range>> strip_rows, block_columns;  // of each map
};

// What no value of a map exceeds in a tile, [strips, blocks, maps]; NaN counts as nothing.
using Bounds = std::vector<float>;

float highest(const float* values, const Range& range) {
    float highest = 0;
    for (std::int32_t i = range.first; i <= range.last; ++i) highest = values[i] > highest ? values[i] : highest;
    return highest;
}

Bounds find_bounds(const Job& job, const Tiling& tiling, std::int64_t image, std::int64_t channel) {
    Bounds bounds(tiling.strips * tiling.blocks * job.maps(), 0.0f);
    std::vector<float> of_rows;  // [rows of the CAM, blocks]
    for (std::int64_t map = 0; map < job.maps(); ++map) {
        const Cam& cam = job.cams[map];
        const float* values = cam.values + (image * job.channels + channel) * cam.height * cam.width;
        of_rows.clear();
        for (std::int64_t row = 0; row < cam.height; ++row)
            for (const Range& columns : tiling.block_columns[map])
                of_rows.push_back(highest(values + row * cam.width, columns) * kRounding);
        for (std::int64_t strip = 0; strip < tiling.strips; ++strip)
            for (std::int64_t row = tiling.strip_rows[map][strip].first; row <= tiling.strip_rows[map][strip].last;
                 ++row)
                for (std::int64_t block = 0; block < tiling.blocks; ++block) {
                    float& bound = bounds[(strip * tiling.blocks + block) * job.maps() + map];
                    bound = std::max(bound, of_rows[row * tiling.blocks + block]);
                }
    }
    return bounds;
}

// Rows of the CAMs of one class in one image, made as wide as the frame on demand.
class WideRows {
  public:
    WideRows(const Job& job, const Tiling& tiling)
        : job_(job),
          stride_(tiling.blocks * tiling.block),
          held_(job.maps() * 2),
          wide_(make_zeros<float>(job.maps() * 2 * stride_)) {
        std::int64_t widest = 0;
        for (const Cam& cam : job.cams) widest = std::max(widest, cam.width);
        narrow_ = make_zeros<float>(widest + tiling.block);
    }

    void start(std::int64_t image, std::int64_t channel) {
        first_value_ = image * job_.channels + channel;
        std::fill(held_.begin(), held_.end(), -1);
    }

    // The two rows of a map that pixel row y lies between.
    CamRows around(std::int64_t map, std::int64_t y) {
        const Axis& axis = job_.cams[map].vertical;
        return {row(map, axis.low[y]), row(map, axis.high[y]), axis.low_weight[y], axis.high_weight[y]};
    }

  private:
    // Even and odd rows have a place each: neighbours never evict each other.
    const float* row(std::int64_t map, std::int32_t row) {
        const std::int64_t place = map * 2 + row % 2;
        float* wide = wide_.get() + place * stride_;
        if (held_[place] != row) {
            const Cam& cam = job_.cams[map];
            const Axis& axis = cam.horizontal;
            std::copy_n(cam.values + (first_value_ * cam.height + row) * cam.width, cam.width, narrow_.get());
            rows().cam_columns(narrow_.get(), axis.low, axis.high, axis.low_weight, axis.high_weight, job_.width, wide);
            held_[place] = row;
        }
        return wide;
    }

    const Job& job_;
    std::int64_t stride_, first_value_ = 0;
    std::vector<std::int32_t> held_;
    Scratch<float> wide_, narrow_;  // narrow_: one row as it is, with room behind it
};

// Which maps can exceed a level in the tiles of a strip, those that can be highest first.
class Choice {
  public:
    Choice(const float* bounds, std::int64_t blocks, std::int64_t maps, float level)
        : maps_(maps), chosen_(blocks * maps), counts_(blocks), used_(maps) {
        for (std::int64_t block = 0; block < blocks; ++block) {
            const float* of_tile = bounds + block * maps;
            std::int32_t* chosen = chosen_.data() + block * maps;
            int& count = counts_[block];
            for (std::int32_t map = 0; map < maps; ++map)
                if (of_tile[map] > level) {
                    chosen[count++] = map;
                    used_[map] = true;
                }
            std::sort(chosen, chosen + count, [&](int a, int b) { return of_tile[a] > of_tile[b]; });
        }
    }
    const std::int32_t* of_block(std::int64_t block) const { return chosen_.data() + block * maps_; }
    int count(std::int64_t block) const { return counts_[block]; }
    bool uses(std::int64_t map) const { return used_[map]; }

  private:
    std::int64_t maps_;
    std::vector<std::int32_t> chosen_;  // [blocks, maps], the first `count` of each block
    std::vector<int> counts_;
    std::vector<bool> used_;
};

// Calls work(y, first column, CAM rows, which of them, their number) for every row of the strip's tiles and the maps
// that can exceed `level` there.
template <typename Work>
void visit_strip(const Job& job, const Tiling& tiling, const Bounds& bounds, std::int64_t strip, WideRows& wide,
                 float level, const Work& work) {
    const float* of_strip = bounds.data() + strip * tiling.blocks * job.maps();
    if (*std::max_element(of_strip, of_strip + tiling.blocks * job.maps()) <= level) return;
    const Choice choice(of_strip, tiling.blocks, job.maps(), level);
    std::vector<CamRows> around(job.cams.size());
    const std::int64_t end = std::min(job.height, (strip + 1) * kStrip);
    for (std::int64_t y = strip * kStrip; y < end; ++y) {
        for (std::int64_t map = 0; map < job.maps(); ++map)
            if (choice.uses(map)) around[map] = wide.around(map, y);
        for (std::int64_t block = 0; block < tiling.blocks; ++block)
            if (choice.count(block) > 0)
                work(y, block * tiling.block, around.data(), choice.of_block(block), choice.count(block));
    }
}

// Starts in the strip where the peak may be highest; most of the others then cannot reach it.
float find_peak(const Job& job, const Tiling& tiling, const Bounds& bounds, std::int64_t image, std::int64_t channel) {
    WideRows wide(job, tiling);
    wide.start(image, channel);
    float peak = 0;
    const auto raise = [&](std::int64_t, std::int64_t x, const CamRows* maps, const std::int32_t* chosen, int count) {
        peak = std::max(peak, rows().cam_peak(maps, chosen, count, x));
    };
    const std::int64_t highest = std::max_element(bounds.begin(), bounds.end()) - bounds.begin();
    const std::int64_t first = highest / (tiling.blocks * job.maps());
    visit_strip(job, tiling, bounds, first, wide, peak, raise);
    for (std::int64_t strip = 0; strip < tiling.strips; ++strip)
        if (strip != first) visit_strip(job, tiling, bounds, strip, wide, peak, raise);
    return peak;
}

// What is known of one listed class of an image.
struct Found {
    Bounds bounds;
    float threshold;
};

// Sets the bits of strips first..end-1 of one image, bits [words, height, width].
void set_bits(const Job& job, const Tiling& tiling, const std::vector<Found>& found, std::int64_t image,
              std::int64_t first, std::int64_t end, std::int32_t* bits) {
    const std::int64_t plane_size = job.height * job.width;
    const std::int64_t begin_row = first * kStrip, end_row = std::min(job.height, end * kStrip);
    for (std::int64_t word = 0; word < job.words(); ++word)
        std::fill_n(bits + word * plane_size + begin_row * job.width, (end_row - begin_row) * job.width, 0);
    WideRows wide(job, tiling);
    for (std::int64_t plane = 0; plane < job.planes; ++plane) {
        const std::int64_t channel = job.classes[image * job.planes + plane];
        if (channel < 0) continue;
        wide.start(image, channel);
        const float threshold = found[plane].threshold;
        const auto bit = static_cast<std::int32_t>(std::uint32_t{1} << (plane % 32));
        const auto set = [&](std::int64_t y, std::int64_t x, const CamRows* maps, const std::int32_t* chosen,
                             int count) {
            rows().cam_bits(maps, chosen, count, x, std::min(tiling.block, job.width - x), threshold, bit,
                            bits + plane / 32 * plane_size + y * job.width + x);
        };
        for (std::int64_t strip = first; strip < end; ++strip)
            visit_strip(job, tiling, found[plane].bounds, strip, wide, threshold, set);
    }
}

// bits [words, height, width], peaks [planes] of one image.
void activate_image(const Job& job, const Tiling& tiling, std::int64_t image, float theta, std::int32_t* bits,
                    float* peaks, int threads) {
    std::vector<Found> found(job.planes);
    parallel_for(job.planes, threads, [&](std::int64_t plane) {
        const std::int64_t channel = job.classes[image * job.planes + plane];
        peaks[plane] = 0;
        if (channel < 0) return;
        found[plane].bounds = find_bounds(job, tiling, image, channel);
        peaks[plane] = find_peak(job, tiling, found[plane].bounds, image, channel);
        found[plane].threshold = theta * (peaks[plane] + kPeakEpsilon);
    });
    const std::int64_t parts = std::min<std::int64_t>(threads, tiling.strips);
    parallel_for(parts, threads, [&](std::int64_t part) {
        set_bits(job, tiling, found, image, part_begin(tiling.strips, part, parts),
                 part_begin(tiling.strips, part + 1, parts), bits);
    });
}

void check_axis(const Axis& axis, std::int64_t cam_size, std::int64_t size) {
    check_pointer("low weights", axis.low_weight, {size});
    check_pointer("high weights", axis.high_weight, {size});
    check_pointer("low taps", axis.low, {size});
    check_pointer("high taps", axis.high, {size});
    check_taps("cam", axis.low, size, cam_size);
    check_taps("cam", axis.high, size, cam_size);
}

void check(const Job& job, const std::int32_t* bits, const float* peaks, int threads) {
    check_at_least_one("threads", threads);
    check_at_least_one("height", job.height);
    check_at_least_one("width", job.width);
    check_frame("bits", job.height, job.width);
    check_pointer("classes", job.classes, {job.images, job.planes});
    check_pointer("peaks", peaks, {job.images, job.planes});
    check_pointer("bits", bits, {job.images, (job.planes + 31) / 32, job.height, job.width});
    for (const Cam& cam : job.cams) {
        check_pointer("cam", cam.values, {job.images, job.channels, cam.height, cam.width});
        check_axis(cam.vertical, cam.height, job.height);
        check_axis(cam.horizontal, cam.width, job.width);
    }
    for (std::int64_t i = 0; i < job.images * job.planes; ++i)
        if (job.classes[i] < -1 || job.classes[i] >= job.channels)
            throw std::invalid_argument("classes holds " + std::to_string(job.classes[i]) + "; accepted: 0.." +
                                        std::to_string(job.channels - 1) + ", or -1 for none");
}

}  // namespace

void activate_cams(const std::vector<Cam>& cams, const std::int64_t* classes, float theta, std::int32_t* bits,
                   float* peaks, std::int64_t images, std::int64_t channels, std::int64_t planes, std::int64_t height,
                   std::int64_t width, int threads) {
    const Job job{cams, classes, images, channels, planes, height, width};
    check(job, bits, peaks, threads);
    const Tiling tiling(job);
    threads = threads_for(0.1 * static_cast<double>(images * planes * height * width * job.maps()), threads);
    const bool by_image = images >= threads;  // or else the threads share an image
    parallel_for(images, by_image ? threads : 1, [&](std::int64_t image) {
        activate_image(job, tiling, image, theta, bits + image * job.words() * height * width, peaks + image * planes,
                       by_image ? 1 : threads);
    });
}

}  // namespace f2f
