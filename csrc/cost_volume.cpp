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

// Features of several images laid out row by row, [images, reach + height + reach, channels, stride], so that what one
// row of pixels needs is close together; zeros around the frame, pixel 0 at column `reach`.
template <typename T>
class Padded {
  public:
    Padded(std::int64_t images, const Features& size)
        : size_(size),
          margin_(size.reach),
          stride_(round_up(round_up(size.width, rows().template block<T>()) + 2 * margin_, kCacheLine / sizeof(T))),
          values_(make_scratch<T>(images * (size.height + 2 * margin_) * size.channels * stride_)) {
        for (std::int64_t image = 0; image < images; ++image)
            for (std::int64_t y = 0; y < margin_; ++y)
                for (T* row : {line(image, -1 - y), line(image, size.height + y)})
                    std::fill_n(row, size.channels * stride_, T(0));
    }
    T* line(std::int64_t image, std::int64_t y) {  // y = -margin is the first
        return values_.get() + (image * (size_.height + 2 * margin_) + y + margin_) * size_.channels * stride_;
    }
    // Where pixel 0 of a row goes; the row's margins are made zero.
    T* start_row(std::int64_t image, std::int64_t y, std::int64_t channel) {
        T* row = line(image, y) + channel * stride_;
        std::fill_n(row, margin_, T(0));
        std::fill(row + margin_ + size_.width, row + stride_, T(0));
        return row + margin_;
    }
    std::int64_t stride() const { return stride_; }

  private:
    Features size_;
    std::int64_t margin_, stride_;
    Scratch<T> values_;
};

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

// One group of images: as many as there are threads are laid out and worked on at a time.
template <typename T>
class Group {
  public:
    Group(const Features& size, std::int64_t first, std::int64_t images, int threads)
        : size_(size), first_(first), images_(images), threads_(threads), plane_(size.height * size.width) {}

    // Dense features [all images, channels, height, width] into rows.
    void lay_out(const T* dense, Padded<T>& padded) const {
        for_rows(size_.channels, [&](std::int64_t image, std::int64_t y) {
            for (std::int64_t channel = 0; channel < size_.channels; ++channel) {
                const T* row = dense + ((first_ + image) * size_.channels + channel) * plane_ + y * size_.width;
                std::copy_n(row, size_.width, padded.start_row(image, y, channel));
            }
        });
    }

    // Likewise, sampled along the flow where there is one.
    void lay_out_sampled(const T* dense, const T* flow_xy_px, Padded<T>& padded) const {
        if (flow_xy_px == nullptr) return lay_out(dense, padded);
        for_rows(size_.channels * 4, [&](std::int64_t image, std::int64_t y) {
            Samples<T> samples(size_.width);
            find_samples(flow_xy_px + (first_ + image) * 2 * plane_, size_, y, samples);
            for (std::int64_t channel = 0; channel < size_.channels; ++channel)
                sample(samples.row(), dense + ((first_ + image) * size_.channels + channel) * plane_,
                       padded.start_row(image, y, channel));
        });
    }

    void find_costs(const T* f1, Padded<T>& f2, T* to) const {
        const std::int64_t together = rows().cost_rows, bands = (size_.height + together - 1) / together;
        const std::int64_t operations = images_ * plane_ * size_.channels * square(2 * size_.reach + 1);
        parallel_for(
            images_ * bands, threads_for(static_cast<double>(operations) / 15, threads_), [&](std::int64_t piece) {
                const std::int64_t image = piece / bands, y = piece % bands * together;
                const Scratch<T> tile = make_scratch<T>(size_.channels * together * rows().template block<T>());
                CostRows<T> job;
                job.f1 = f1 + (first_ + image) * size_.channels * plane_ + y * size_.width;
                job.f2 = f2.line(image, y - size_.reach);
                job.costs = to + (first_ + image) * square(2 * size_.reach + 1) * plane_ + y * size_.width;
                job.tile = tile.get();
                job.channels = size_.channels;
                job.f2_stride = f2.stride();
                job.width = size_.width;
                job.plane = plane_;
                job.reach = size_.reach;
                job.rows = static_cast<int>(std::min(together, size_.height - y));
                costs(job);
            });
    }

    // By f1, where the features are f2, or mirrored by f2, where they are f1; `to` [images of the group, channels,
    // height, width].
    void find_gradient(const T* of_costs, Padded<T>& features, bool mirrored, T* to) const {
        for_rows(size_.channels * square(2 * size_.reach + 1), [&](std::int64_t image, std::int64_t y) {
            GradientRow<T> job;
            job.of_costs = of_costs + (first_ + image) * square(2 * size_.reach + 1) * plane_;
            job.features = features.line(image, y - size_.reach);
            job.to = to + image * size_.channels * plane_ + y * size_.width;
            job.channels = size_.channels;
            job.features_stride = features.stride();
            job.y = y;
            job.height = size_.height;
            job.width = size_.width;
            job.scale = T(1) / static_cast<T>(size_.channels);
            job.reach = size_.reach;
            job.mirrored = mirrored;
            gradient(job);
        });
    }

    // From the gradient of the sampled f2 (of the group) to that of f2: every tap gets its share.
    void spread_to_features(const T* to_sampled, const T* flow_xy_px, T* to_f2) const {
        const std::int64_t parts = std::min<std::int64_t>(threads_, size_.channels);  // of the channels
        parallel_for(images_ * parts, threads_, [&](std::int64_t piece) {
            const std::int64_t image = piece / parts, first = part_begin(size_.channels, piece % parts, parts);
            const std::int64_t end = part_begin(size_.channels, piece % parts + 1, parts);
            const T* from = to_sampled + image * size_.channels * plane_;
            T* to = to_f2 + (first_ + image) * size_.channels * plane_;
            std::fill_n(to + first * plane_, (end - first) * plane_, T(0));
            Samples<T> samples(size_.width);
            for (std::int64_t y = 0; y < size_.height; ++y) {
                find_samples(flow_xy_px + (first_ + image) * 2 * plane_, size_, y, samples);
                for (std::int64_t channel = first; channel < end; ++channel)
                    spread(samples.row(), from + channel * plane_ + y * size_.width, to + channel * plane_);
            }
        });
    }

    // A weight's derivative by the flow is the same for all channels: first sum over those, tap by tap.
    void spread_to_flow(const T* to_sampled, const T* f2, const T* flow_xy_px, T* to_flow) const {
        for_rows(size_.channels * 8, [&](std::int64_t image, std::int64_t y) {
            Samples<T> samples(size_.width);
            find_samples(flow_xy_px + (first_ + image) * 2 * plane_, size_, y, samples);
            const Scratch<T> memory = make_zeros<T>(4 * size_.width);
            T* const sums[4] = {memory.get(), memory.get() + size_.width, memory.get() + 2 * size_.width,
                                memory.get() + 3 * size_.width};
            for (std::int64_t channel = 0; channel < size_.channels; ++channel)
                sum_taps(samples.row(), f2 + ((first_ + image) * size_.channels + channel) * plane_,
                         to_sampled + (image * size_.channels + channel) * plane_ + y * size_.width, sums);
            T* to_x = to_flow + (first_ + image) * 2 * plane_ + y * size_.width;
            T* to_y = to_x + plane_;
            for (std::int64_t x = 0; x < size_.width; ++x) {
                to_x[x] = to_y[x] = 0;
                for (int tap = 0; tap < 4; ++tap) {
                    to_x[x] += sums[tap][x] * samples.by_x[tap][x];
                    to_y[x] += sums[tap][x] * samples.by_y[tap][x];
                }
            }
        });
    }

  private:
    // Calls work(image of the group, row) for every row; so many operations are spent on a pixel.
    template <typename Work>
    void for_rows(std::int64_t operations, const Work& work) const {
        const int threads = threads_for(static_cast<double>(images_ * plane_ * operations) / 15, threads_);
        parallel_for(images_ * size_.height, threads,
                     [&](std::int64_t piece) { work(piece / size_.height, piece % size_.height); });
    }

    Features size_;
    std::int64_t first_, images_;
    int threads_;
    std::int64_t plane_;
};

template <typename T>
void check(const T* f1, const T* f2, const T* costs, const Features& size, int threads) {
    check_at_least_one("threads", threads);
    check_at_least_one("reach + 1", size.reach + 1);
    check_frame("f1", size.height, size.width);
    check_pointer("f1", f1, {size.images, size.channels, size.height, size.width});
    check_pointer("f2", f2, {size.images, size.channels, size.height, size.width});
    check_pointer("costs", costs, {size.images, square(2 * size.reach + 1), size.height, size.width});
}

// Calls work(group, number of images) until all images are done.
template <typename T, typename Work>
void for_groups(const Features& size, int threads, const Work& work) {
    if (size.height * size.width == 0) return;
    for (std::int64_t first = 0; first < size.images; first += threads) {
        const std::int64_t images = std::min<std::int64_t>(threads, size.images - first);
        work(Group<T>(size, first, images, threads), first, images);
    }
}

}  // namespace

template <typename T>
void cost_volume(const T* f1, const T* f2, const T* flow_xy_px, T* costs, const Features& size, int threads) {
    check(f1, f2, costs, size, threads);
    for_groups<T>(size, threads, [&](const Group<T>& group, std::int64_t, std::int64_t images) {
        Padded<T> there(images, size);
        group.lay_out_sampled(f2, flow_xy_px, there);
        group.find_costs(f1, there, costs);
    });
}

template <typename T>
void cost_volume_backward(const T* gradient, const T* f1, const T* f2, const T* flow_xy_px, T* to_f1, T* to_f2,
                          T* to_flow, const Features& size, int threads) {
    check(f1, f2, gradient, size, threads);
    check_pointer("to_f1", to_f1, {size.images, size.channels, size.height, size.width});
    check_pointer("to_f2", to_f2, {size.images, size.channels, size.height, size.width});
    const std::int64_t image_size = size.channels * size.height * size.width;
    for_groups<T>(size, threads, [&](const Group<T>& group, std::int64_t first, std::int64_t images) {
        Padded<T> features(images, size);
        group.lay_out_sampled(f2, flow_xy_px, features);
        group.find_gradient(gradient, features, false, to_f1 + first * image_size);
        group.lay_out(f1, features);
        if (flow_xy_px == nullptr) return group.find_gradient(gradient, features, true, to_f2 + first * image_size);
        const Scratch<T> to_sampled = make_scratch<T>(images * image_size);
        group.find_gradient(gradient, features, true, to_sampled.get());
        group.spread_to_features(to_sampled.get(), flow_xy_px, to_f2);
        group.spread_to_flow(to_sampled.get(), f2, flow_xy_px, to_flow);
    });
}

template void cost_volume(const float*, const float*, const float*, float*, const Features&, int);
template void cost_volume(const double*, const double*, const double*, double*, const Features&, int);
template void cost_volume_backward(const float*, const float*, const float*, const float*, float*, float*, float*,
                                   const Features&, int);
template void cost_volume_backward(const double*, const double*, const double*, const double*, double*, double*,
                                   double*, const Features&, int);

}  // namespace f2f
