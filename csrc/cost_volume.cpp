// PWC-Net's cost volume and its gradient, of f2 as it is or sampled along a flow first.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "kernels.h"
#include "parallel.h"
#include "rows.h"
#include "scratch.h"

namespace f2f {
namespace {

std::int64_t round_up(std::int64_t size, std::int64_t block) { return (size + block - 1) / block * block; }

std::int64_t square(std::int64_t side) { return side * side; }

// Where the pixels of one row sample, and how that changes with the flow.
template <typename T>
struct Samples {
    explicit Samples(std::int64_t width) {
        together.resize(width / rows().block<T>() + 1);
        for (int tap = 0; tap < 4; ++tap) {
            at[tap].resize(width);
            for (auto* table : {&weight[tap], &by_x[tap], &by_y[tap]}) table->resize(width);
        }
    }
    SampleRow<T> row() const {
        return {{at[0].data(), at[1].data(), at[2].data(), at[3].data()},
                {weight[0].data(), weight[1].data(), weight[2].data(), weight[3].data()},
                together.data(),
                static_cast<std::int64_t>(at[0].size())};
    }
    std::vector<std::uint8_t> together;  // of each whole vector of pixels
    std::vector<std::int32_t> at[4];
    std::vector<T> weight[4], by_x[4], by_y[4];  // by_x: the weight's derivative by the flow's x
};

// The share of the linear weight at `place` px that falls on pixels 0..size-1.
template <typename T>
T in_frame(T place, std::int64_t size) {
    const T nearest = std::min(place + 1, static_cast<T>(size) - place);
    return std::min(std::max(nearest, T(0)), T(1));  // 0 for NaN
}

template <typename T>
void find_sample(T px, T py, const Features& size, std::int64_t x, Samples<T>& samples) {
    const bool kept = in_frame(px, size.width) * in_frame(py, size.height) >= T(0.9999);
    const T left = kept ? std::floor(px) : T(0), top = kept ? std::floor(py) : T(0);
    const T right_share = px - left, low_share = py - top;
    for (int tap = 0; tap < 4; ++tap) {
        const auto tap_x = static_cast<std::int64_t>(left) + tap % 2, tap_y = static_cast<std::int64_t>(top) + tap / 2;
        const bool used = kept && tap_x >= 0 && tap_x < size.width && tap_y >= 0 && tap_y < size.height;
        const T share_x = tap % 2 ? right_share : 1 - right_share, share_y = tap / 2 ? low_share : 1 - low_share;
        samples.at[tap][x] = used ? static_cast<std::int32_t>(tap_y * size.width + tap_x) : 0;
        samples.weight[tap][x] = used ? share_x * share_y : T(0);
        samples.by_x[tap][x] = used ? (tap % 2 ? share_y : -share_y) : T(0);
        samples.by_y[tap][x] = used ? (tap / 2 ? share_x : -share_x) : T(0);
    }
}

// Whether `count` pixels that start at x sample neighbours.
template <typename T>
bool sample_together(const Samples<T>& samples, std::int64_t x, std::int64_t count) {
    for (const auto& at : samples.at)
        for (std::int64_t i = 1; i < count; ++i)
            if (at[x + i] != at[x] + i) return false;
    return true;
}

// flow_xy_px [2, height, width] of one image.
template <typename T>
void find_samples(const T* flow_xy_px, const Features& size, std::int64_t y, Samples<T>& samples) {
    const T* flow_x = flow_xy_px + y * size.width;
    const T* flow_y = flow_x + size.height * size.width;
    for (std::int64_t x = 0; x < size.width; ++x)
        find_sample(flow_x[x] + static_cast<T>(x), flow_y[x] + static_cast<T>(y), size, x, samples);
    const int block = rows().block<T>();
    for (std::int64_t x = 0; x + block <= size.width; x += block)
        samples.together[x / block] = sample_together(samples, x, block);
}

void sample(const SampleRow<float>& row, const float* plane, float* to) { rows().sample_f32(row, plane, to); }
void sample(const SampleRow<double>& row, const double* plane, double* to) { rows().sample_f64(row, plane, to); }
void sum_taps(const SampleRow<float>& row, const float* plane, const float* gradient, float* const* sums) {
    rows().sum_taps_f32(row, plane, gradient, sums);
}
void sum_taps(const SampleRow<double>& row, const double* plane, const double* gradient, double* const* sums) {
    rows().sum_taps_f64(row, plane, gradient, sums);
}
void spread(const SampleRow<float>& row, const float* gradient, float* plane) {
    rows().spread_f32(row, gradient, plane);
}
void spread(const SampleRow<double>& row, const double* gradient, double* plane) {
    rows().spread_f64(row, gradient, plane);
}
void costs(const CostRows<float>& job) { rows().costs_f32(job); }
void costs(const CostRows<double>& job) { rows().costs_f64(job); }
void gradient(const GradientRow<float>& job) { rows().gradient_f32(job); }
void gradient(const GradientRow<double>& job) { rows().gradient_f64(job); }

// The features of one image, [channels, height, width], and the flow, [2, height, width], that they are sampled along;
// without a flow (null) they are taken as they are.
template <typename T>
struct Source {
    const T* features;
    const T* flow_xy_px;
    const Features& size;
    std::int64_t plane() const { return size.height * size.width; }
};

// The lines around the current rows, in a ring: every line is laid out once, shortly before it is needed, and is still
// in the cache when it is. Rows are asked for in ascending order.
template <typename T>
class Lines {
  public:
    Lines(const Source<T>& source, std::int64_t rows_at_once)
        : source_(source),
          reach_(source.size.reach),
          count_(2 * reach_ + rows_at_once),
          stride_(round_up(round_up(source.size.width, rows().template block<T>()) + 2 * reach_,
                           kCacheLine / static_cast<std::int64_t>(sizeof(T)))),
          line_size_(source.size.channels * stride_),
          values_(make_scratch<T>((count_ + 1) * line_size_)),
          around_(count_),
          samples_(source.flow_xy_px == nullptr ? 0 : source.size.width) {
        std::fill_n(line(count_), line_size_, T(0));  // stands for what lies outside the frame
    }

    std::int64_t stride() const { return stride_; }

    // The lines of rows y - reach .. y + rows - 1 + reach.
    const Line<T>* around(std::int64_t y, std::int64_t rows_asked) {
        for (std::int64_t i = 0; i < rows_asked + 2 * reach_; ++i) {
            const std::int64_t row = y - reach_ + i;
            const bool inside = row >= 0 && row < source_.size.height;
            if (inside && row >= next_) lay_out(row);
            around_[i] = line(inside ? row % count_ : count_);
        }
        return around_.data();
    }

  private:
    T* line(std::int64_t place) { return values_.get() + place * line_size_; }

    void lay_out(std::int64_t row) {
        const Features& size = source_.size;
        const bool sampled = source_.flow_xy_px != nullptr;
        if (sampled) find_samples(source_.flow_xy_px, size, row, samples_);
        for (std::int64_t channel = 0; channel < size.channels; ++channel) {
            const T* plane = source_.features + channel * source_.plane();
            T* to = line(row % count_) + channel * stride_;
            std::fill_n(to, reach_, T(0));
            if (sampled)
                sample(samples_.row(), plane, to + reach_);
            else
                std::copy_n(plane + row * size.width, size.width, to + reach_);
            std::fill(to + reach_ + size.width, to + stride_, T(0));
        }
        next_ = row + 1;
    }

    Source<T> source_;
    std::int64_t reach_, count_, stride_, line_size_, next_ = 0;
    Scratch<T> values_;
    std::vector<Line<T>> around_;
    Samples<T> samples_;
};

// Rows first..end-1 of one image.
struct Band {
    std::int64_t image, first, end;
};

// Calls work(band) for bands that cover all images, as many as keep the threads busy; so many operations per pixel.
template <typename Work>
void for_bands(const Features& size, std::int64_t operations, int threads, const Work& work) {
    const double all = static_cast<double>(size.images * size.height * size.width) * static_cast<double>(operations);
    const int used = threads_for(all / 15, threads);
    const std::int64_t bands = size.images >= used ? 1 : std::min<std::int64_t>(used, size.height);
    parallel_for(size.images * bands, used, [&](std::int64_t piece) {
        const std::int64_t band = piece % bands;
        work(Band{piece / bands, part_begin(size.height, band, bands), part_begin(size.height, band + 1, bands)});
    });
}

// f1 and costs of one image.
template <typename T>
void find_costs(const T* f1, const Source<T>& f2, const Band& band, T* to) {
    const Features& size = f2.size;
    const std::int64_t together = rows().cost_rows;
    Lines<T> lines(f2, together);
    const Scratch<T> tile = make_scratch<T>(size.channels * together * rows().template block<T>());
    for (std::int64_t y = band.first; y < band.end; y += together) {
        const std::int64_t count = std::min(together, band.end - y);
        CostRows<T> job;
        job.f1 = f1 + y * size.width;
        job.f2 = lines.around(y, count);
        job.costs = to + y * size.width;
        job.tile = tile.get();
        job.channels = size.channels;
        job.stride = lines.stride();
        job.width = size.width;
        job.plane = f2.plane();
        job.reach = size.reach;
        job.rows = static_cast<int>(count);
        costs(job);
    }
}

// The gradient by f1, whose features are f2, or mirrored by f2, whose features are f1; of one image.
template <typename T>
void find_gradient(const T* of_costs, const Source<T>& features, bool mirrored, const Band& band, T* to) {
    const Features& size = features.size;
    Lines<T> lines(features, 1);
    for (std::int64_t y = band.first; y < band.end; ++y) {
        GradientRow<T> job;
        job.of_costs = of_costs;
        job.features = lines.around(y, 1);
        job.to = to + y * size.width;
        job.channels = size.channels;
        job.stride = lines.stride();
        job.y = y;
        job.height = size.height;
        job.width = size.width;
        job.scale = T(1) / static_cast<T>(size.channels);
        job.reach = size.reach;
        job.mirrored = mirrored;
        gradient(job);
    }
}

// From the gradient of an image's sampled features to that of the features: every tap gets its share.
template <typename T>
void spread_to_features(const Source<T>& source, const T* to_sampled, std::int64_t first, std::int64_t end, T* to) {
    std::fill_n(to + first * source.plane(), (end - first) * source.plane(), T(0));
    Samples<T> samples(source.size.width);
    for (std::int64_t y = 0; y < source.size.height; ++y) {
        find_samples(source.flow_xy_px, source.size, y, samples);
        for (std::int64_t channel = first; channel < end; ++channel)
            spread(samples.row(), to_sampled + channel * source.plane() + y * source.size.width,
                   to + channel * source.plane());
    }
}

// And to that of the flow. A weight's derivative is the same for all channels: first sum over those, tap by tap.
template <typename T>
void spread_to_flow(const Source<T>& source, const T* to_sampled, const Band& band, T* to_flow) {
    const std::int64_t width = source.size.width;
    Samples<T> samples(width);
    const Scratch<T> memory = make_scratch<T>(4 * width);
    T* const sums[4] = {memory.get(), memory.get() + width, memory.get() + 2 * width, memory.get() + 3 * width};
    for (std::int64_t y = band.first; y < band.end; ++y) {
        find_samples(source.flow_xy_px, source.size, y, samples);
        std::fill_n(memory.get(), 4 * width, T(0));
        for (std::int64_t channel = 0; channel < source.size.channels; ++channel)
            sum_taps(samples.row(), source.features + channel * source.plane(),
                     to_sampled + channel * source.plane() + y * width, sums);
        T* to_x = to_flow + y * width;
        T* to_y = to_x + source.plane();
        for (std::int64_t x = 0; x < width; ++x) {
            to_x[x] = to_y[x] = 0;
            for (int tap = 0; tap < 4; ++tap) {
                to_x[x] += sums[tap][x] * samples.by_x[tap][x];
                to_y[x] += sums[tap][x] * samples.by_y[tap][x];
            }
        }
    }
}

template <typename T>
void check(const T* f1, const T* f2, const T* costs, const Features& size, int threads) {
    check_at_least_one("threads", threads);
    check_at_least_one("reach + 1", size.reach + 1);
    check_frame("f1", size.height, size.width);
    check_pointer("f1", f1, {size.images, size.channels, size.height, size.width});
    check_pointer("f2", f2, {size.images, size.channels, size.height, size.width});
    check_pointer("costs", costs, {size.images, square(2 * size.reach + 1), size.height, size.width});
}

// Where image `image` begins in arrays of so many planes each; null stays null.
template <typename T>
T* image_of(T* array, const Features& size, std::int64_t planes, std::int64_t image) {
    return array == nullptr ? nullptr : array + image * planes * size.height * size.width;
}

}  // namespace

template <typename T>
void cost_volume(const T* f1, const T* f2, const T* flow_xy_px, T* costs, const Features& size, int threads) {
    check(f1, f2, costs, size, threads);
    const std::int64_t planes = square(2 * size.reach + 1);
    for_bands(size, size.channels * planes, threads, [&](const Band& band) {
        const Source<T> source{image_of(f2, size, size.channels, band.image), image_of(flow_xy_px, size, 2, band.image),
                               size};
        find_costs(image_of(f1, size, size.channels, band.image), source, band,
                   image_of(costs, size, planes, band.image));
    });
}

template <typename T>
void cost_volume_backward(const T* gradient, const T* f1, const T* f2, const T* flow_xy_px, T* to_f1, T* to_f2,
                          T* to_flow, const Features& size, int threads) {
    check(f1, f2, gradient, size, threads);
    check_pointer("to_f1", to_f1, {size.images, size.channels, size.height, size.width});
    check_pointer("to_f2", to_f2, {size.images, size.channels, size.height, size.width});
    const std::int64_t planes = square(2 * size.reach + 1), all_planes = size.images * size.channels;
    const bool sampled = flow_xy_px != nullptr;
    const Scratch<T> memory = make_scratch<T>(sampled ? all_planes * size.height * size.width : 0);
    T* to_second = sampled ? memory.get() : to_f2;  // of f2 as the cost volume sees it
    const auto source_of = [&](const T* features, const T* flow, std::int64_t image) {
        return Source<T>{image_of(features, size, size.channels, image), image_of(flow, size, 2, image), size};
    };
    for_bands(size, size.channels * planes * 2, threads, [&](const Band& band) {
        const T* of_costs = image_of(gradient, size, planes, band.image);
        find_gradient(of_costs, source_of(f2, flow_xy_px, band.image), false, band,
                      image_of(to_f1, size, size.channels, band.image));
        find_gradient(of_costs, source_of(f1, static_cast<const T*>(nullptr), band.image), true, band,
                      image_of(to_second, size, size.channels, band.image));
    });
    if (!sampled) return;
    for_bands(size, size.channels * 8, threads, [&](const Band& band) {
        spread_to_flow(source_of(f2, flow_xy_px, band.image), image_of(to_second, size, size.channels, band.image),
                       band, image_of(to_flow, size, 2, band.image));
    });
    const std::int64_t parts = std::min<std::int64_t>(threads, size.channels);  // of the channels
    parallel_for(size.images * parts, threads, [&](std::int64_t piece) {
        const std::int64_t image = piece / parts, part = piece % parts;
        spread_to_features(source_of(f2, flow_xy_px, image), image_of(to_second, size, size.channels, image),
                           part_begin(size.channels, part, parts), part_begin(size.channels, part + 1, parts),
                           image_of(to_f2, size, size.channels, image));
    });
}

template void cost_volume(const float*, const float*, const float*, float*, const Features&, int);
template void cost_volume(const double*, const double*, const double*, double*, const Features&, int);
template void cost_volume_backward(const float*, const float*, const float*, const float*, float*, float*, float*,
                                   const Features&, int);
template void cost_volume_backward(const double*, const double*, const double*, const double*, double*, double*,
                                   double*, const Features&, int);

}  // namespace f2f
