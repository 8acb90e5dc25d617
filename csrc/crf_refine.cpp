// Mean-field inference in a dense CRF: a bilateral kernel on the permutohedral lattice, a Gaussian one as a filter.
//
// Of L labels L - 1 are filtered: label 0's share is taken from every other label's, and its logit is 0. Planes hold
// one channel a label, with rows padded to whole vectors; on the lattice the channels of a point lie side by side.
#include <algorithm>
#include <atomic>
#include <barrier>
#include <cmath>
#include <vector>

#include "check.h"
#include "crf_lattice.h"
#include "crf_points.h"
#include "kernels.h"
#include "parallel.h"
#include "rows.h"
#include "scratch.h"

namespace f2f {
namespace {

constexpr std::int64_t kRowBlock = 16;       // values
constexpr std::int64_t kVertexPiece = 2048;  // lattice points
constexpr float kHighestEnergy = 1e4f;
constexpr double kCutOff = 4;  // standard deviations of the Gaussian kernel

std::int64_t round_up(std::int64_t size, std::int64_t block) { return (size + block - 1) / block * block; }

// Threads that go through the same pieces of work together.
class Team {
  public:
    explicit Team(int members) : finished_(members, Restart{&next_}) {}

    // Every member calls this; each piece is done by one of them, and all wait until all are done.
    template <typename Work>
    void share(std::int64_t pieces, const Work& work) {
        for (std::int64_t piece = next_++; piece < pieces; piece = next_++) work(piece);
        finished_.arrive_and_wait();
    }

  private:
    struct Restart {
        std::atomic<std::int64_t>* next;
        void operator()() noexcept { *next = 0; }
    };
    std::atomic<std::int64_t> next_{0};
    std::barrier<Restart> finished_;
};

// One axis of the Gaussian kernel, normalised symmetrically. Tap d of pixel i is pixel i + d - reach.
struct GaussianAxis {
    GaussianAxis(double px, std::int64_t size)
        : reach(static_cast<std::int64_t>(std::min(std::ceil(kCutOff * px), static_cast<double>(size - 1)))) {
        for (std::int64_t d = -reach; d <= reach; ++d)
            taps.push_back(static_cast<float>(std::exp(-0.5 * static_cast<double>(d * d) / (px * px))));
        for (std::int64_t i = 0; i < size; ++i) {
            double sum = 0;
            for (std::int64_t d = first_tap(i); d < end_tap(i, size); ++d) sum += taps[d];
            norm.push_back(static_cast<float>(1 / std::sqrt(sum)));
        }
    }
    std::int64_t first_tap(std::int64_t i) const { return std::max<std::int64_t>(0, reach - i); }
    std::int64_t end_tap(std::int64_t i, std::int64_t size) const { return std::min(2 * reach + 1, size + reach - i); }

    std::int64_t reach;
    std::vector<float> taps;  // [2 * reach + 1]
    std::vector<float> norm;  // [size]
};

// One image's energies and probabilities, [labels, height, width].
struct Window {
    const float* unary;
    float* probabilities;
    std::int64_t labels, height, width;
    std::int64_t plane() const { return height * width; }
    std::int64_t stride() const { return round_up(width, kRowBlock); }
};

float energy_of(float given) {  // NaN counts as the highest
    const float low = given < kHighestEnergy ? given : kHighestEnergy;
    return low > -kHighestEnergy ? low : -kHighestEnergy;
}

// Logits of labels 1.. less label 0's before any message: [labels - 1, stride].
void first_logits(const Window& window, std::int64_t y, float* logits) {
    const float* first = window.unary + y * window.width;
    for (std::int64_t c = 0; c < window.labels - 1; ++c) {
        const float* own = first + (c + 1) * window.plane();
        for (std::int64_t x = 0; x < window.width; ++x)
            logits[c * window.stride() + x] = energy_of(first[x]) - energy_of(own[x]);
    }
}

void write_row(const Window& window, std::int64_t y, const float* first, const float* shares) {
    float* to = window.probabilities + y * window.width;
    std::copy_n(first, window.width, to);
    for (std::int64_t c = 0; c < window.labels - 1; ++c)
        std::copy_n(shares + c * window.stride(), window.width, to + (c + 1) * window.plane());
}

// What one thread needs for a row of pixels.
struct RowMemory {
    explicit RowMemory(const Window& window)
        : shares(make_zeros<float>((window.labels - 1) * window.stride())),
          logits(make_zeros<float>((window.labels - 1) * window.stride())),
          first(make_zeros<float>(window.stride())) {}
    Scratch<float> shares, logits;  // [labels - 1, stride]
    Scratch<float> first;           // [stride], the share of label 0
};

// And what it needs for the kernels.
struct KernelMemory {
    KernelMemory(const Window& window, std::int64_t floats, std::int64_t most_locals, const GaussianAxis& x,
                 const GaussianAxis& y)
        : row(window),
          padded(make_zeros<float>(window.stride() + 2 * x.reach)),
          side_by_side(make_zeros<float>(window.stride() * floats)),
          points(make_scratch<float>(most_locals * floats)),
          taps(2 * y.reach + 1) {}
    RowMemory row;
    Scratch<float> padded;        // a row between zeros
    Scratch<float> side_by_side;  // [width, floats at a point]
    Scratch<float> points;        // [local numbers of a band, floats at a point]
    std::vector<float> taps;
};

// The steps on one image. `Value` is float for two labels, whose one channel needs no vector, and Four for more.
template <typename Value>
class MeanField {
  public:
    MeanField(const Window& window, const float* image, const CrfOptions& options, int threads)
        : window_(window),
          options_(options),
          count_(round_up(window.labels - 1, kFloatsIn<Value>) / kFloatsIn<Value>),
          x_(options.gaussian_px, window.width),
          y_(options.gaussian_px, window.height),
          lattice_(
              make_lattice(image, window.height, window.width, {options.bilateral_px, options.bilateral_rgb}, threads)),
          norm_x_(window.stride(), 0.0f),
          parts_(make_scratch<float>(lattice_.locals() * floats())) {
        std::copy(x_.norm.begin(), x_.norm.end(), norm_x_.begin());
        for (auto& points : points_) points = make_scratch<float>((lattice_.vertices + 1) * floats());
        for (auto& planes : smooth_)
            planes = make_scratch<float>((window.labels - 1) * window.height * window.stride());
        std::int64_t most_locals = 0;
        for (std::int64_t band = 0; band < lattice_.bands; ++band)
            most_locals = std::max(most_locals, lattice_.locals_of(band));
        for (int i = 0; i < threads; ++i) memory_.emplace_back(window, floats(), most_locals, x_, y_);
    }

    void run() {
        const int members = static_cast<int>(memory_.size());
        Team team(members);
        run_team(members, [&](int member) { run_member(team, memory_[member]); });
    }

  private:
    std::int64_t floats() const { return count_ * kFloatsIn<Value>; }  // at a point

    void run_member(Team& team, KernelMemory& memory) {
        team.share(lattice_.bands, [&](std::int64_t band) { splat_ones(band); });
        filter<float>(team, 1);
        team.share(lattice_.bands, [&](std::int64_t band) { normalise(band, memory); });
        for (std::int64_t step = 0; step < options_.steps; ++step) {
            filter<Value>(team, count_);
            team.share(lattice_.bands, [&](std::int64_t band) { update(band, step, memory); });
        }
    }

    // What the bands have splatted, joined and blurred along every axis. An even number of axes: it ends where it
    // began.
    template <typename T>
    void filter(Team& team, std::int64_t count) {
        static_assert(kCorners % 2 == 0);
        T* points[2] = {as<T>(points_[0].get()), as<T>(points_[1].get())};
        const std::int64_t vertices = lattice_.vertices;
        const auto in_pieces = [&](const auto& work) {
            team.share((vertices + kVertexPiece - 1) / kVertexPiece, [&](std::int64_t piece) {
                work(piece * kVertexPiece, std::min(vertices, (piece + 1) * kVertexPiece));
            });
        };
        in_pieces([&](std::int64_t first, std::int64_t end) {
            join_parts(lattice_, first, end, count, as<T>(parts_.get()), points[0]);
            if (end == vertices)
                for (T* values : points) std::fill_n(values + vertices * count, count, T{});
        });
        for (int axis = 0; axis < kCorners; ++axis)
            in_pieces([&](std::int64_t first, std::int64_t end) {
                blur_axis(lattice_, axis, first, end, count, points[axis % 2], points[1 - axis % 2]);
            });
    }

    Value* parts_of(std::int64_t band) { return as<Value>(parts_.get()) + lattice_.band_begin[band] * count_; }

    void splat_ones(std::int64_t band) {
        float* points = parts_.get() + lattice_.band_begin[band];
        std::fill_n(points, lattice_.locals_of(band), 0.0f);
        for (std::int64_t y = lattice_.first_row(band); y < lattice_.end_row(band); ++y)
            for (std::int64_t i = 0; i < window_.width * kCorners; ++i)
                points[lattice_.corners_of(y)[i]] += lattice_.weights_of(y)[i];
    }

    // Multiplies the weights by 1 / sqrt(what the kernel makes of ones) and splats the shares before the first step.
    void normalise(std::int64_t band, KernelMemory& memory) {
        float *points = memory.points.get(), *sums = memory.side_by_side.get();
        fetch_band(lattice_, band, 1, points_[0].get(), points);
        std::fill_n(parts_of(band), lattice_.locals_of(band) * count_, Value{});
        for (std::int64_t y = lattice_.first_row(band); y < lattice_.end_row(band); ++y) {
            slice_row<1>(lattice_, y, 1, points, sums);
            float* weight = lattice_.weights_of(y);
            for (std::int64_t x = 0; x < window_.width; ++x) {
                const float norm = 1.0f / std::sqrt(sums[x] + 1e-20f);
                for (int k = 0; k < kCorners; ++k) *weight++ *= norm;
            }
            first_logits(window_, y, memory.row.logits.get());
            share_row(band, y, 0, memory);
        }
    }

    // One step: messages, shares, and their way into the kernels for the next step.
    void update(std::int64_t band, std::int64_t step, KernelMemory& memory) {
        fetch_band(lattice_, band, count_, as<Value>(points_[0].get()), as<Value>(memory.points.get()));
        std::fill_n(parts_of(band), lattice_.locals_of(band) * count_, Value{});
        for (std::int64_t y = lattice_.first_row(band); y < lattice_.end_row(band); ++y) {
            first_logits(window_, y, memory.row.logits.get());
            add_bilateral(y, memory);
            add_gaussian(y, step, memory);
            share_row(band, y, step + 1, memory);
        }
    }

    void add_bilateral(std::int64_t y, KernelMemory& memory) const {
        const auto* points = as<Value>(memory.points.get());
        auto* sums = as<Value>(memory.side_by_side.get());
        in_blocks(count_, [&]<int block>(std::int64_t first) {
            slice_row<block>(lattice_, y, count_, points + first, sums + first);
        });
        for (std::int64_t c = 0; c < window_.labels - 1; ++c) {
            float* logits = memory.row.logits.get() + c * window_.stride();
            for (std::int64_t x = 0; x < window_.width; ++x)
                logits[x] += options_.bilateral_weight * memory.side_by_side[x * floats() + c];
        }
    }

    // The Gaussian's second pass, down the columns of what its first pass has made.
    void add_gaussian(std::int64_t y, std::int64_t step, KernelMemory& memory) const {
        const std::int64_t begin = y_.first_tap(y), end = y_.end_tap(y, window_.height);
        for (std::int64_t d = begin; d < end; ++d)
            memory.taps[d] = options_.gaussian_weight * y_.taps[d] * y_.norm[y + d - y_.reach] * y_.norm[y];
        for (std::int64_t c = 0; c < window_.labels - 1; ++c)
            rows().add_taps(smooth_row(step, c, y + begin - y_.reach), window_.stride(), memory.taps.data() + begin,
                            end - begin, window_.stride(), memory.row.logits.get() + c * window_.stride());
    }

    // The row's shares: after the last step the result, before it the input of both kernels.
    void share_row(std::int64_t band, std::int64_t y, std::int64_t step, KernelMemory& memory) {
        float *shares = memory.row.shares.get(), *first = memory.row.first.get();
        const std::int64_t stride = window_.stride();
        rows().label_shares(memory.row.logits.get(), stride, static_cast<int>(window_.labels), stride, first, shares);
        if (step == options_.steps) return write_row(window_, y, first, shares);
        for (std::int64_t c = 0; c < window_.labels - 1; ++c) {
            for (std::int64_t x = 0; x < stride; ++x) shares[c * stride + x] -= first[x];
            for (std::int64_t x = 0; x < window_.width; ++x)
                memory.side_by_side[x * floats() + c] = shares[c * stride + x];
            smooth_along_row(shares + c * stride, memory.padded.get() + x_.reach, smooth_row(step, c, y));
        }
        in_blocks(count_, [&]<int block>(std::int64_t from) {
            splat_row<block>(lattice_, y, count_, as<Value>(memory.side_by_side.get()) + from, parts_of(band) + from);
        });
    }

    // The Gaussian's first pass. `padded` is a row between zeros.
    void smooth_along_row(const float* values, float* padded, float* smooth) const {
        for (std::int64_t x = 0; x < window_.stride(); ++x) padded[x] = values[x] * norm_x_[x];
        std::fill_n(smooth, window_.stride(), 0.0f);
        rows().add_taps(padded - x_.reach, 1, x_.taps.data(), 2 * x_.reach + 1, window_.stride(), smooth);
        for (std::int64_t x = 0; x < window_.stride(); ++x) smooth[x] *= norm_x_[x];
    }

    // Made for a step while the neighbouring bands may still read those of the step before.
    float* smooth_row(std::int64_t step, std::int64_t channel, std::int64_t y) const {
        return smooth_[step % 2].get() + (channel * window_.height + y) * window_.stride();
    }

    const Window window_;
    const CrfOptions options_;
    const std::int64_t count_;  // Values at a point
    const GaussianAxis x_, y_;
    Lattice lattice_;
    std::vector<float> norm_x_;         // padded with zeros
    Scratch<float> parts_;              // [local numbers, floats]
    Scratch<float> points_[2];          // [vertices + 1, floats]
    Scratch<float> smooth_[2];          // [labels - 1, height, stride]
    std::vector<KernelMemory> memory_;  // of each thread
};

void refine(const Window& window, const float* image, const CrfOptions& options, int threads) {
    if (window.labels == 2) return MeanField<float>(window, image, options, threads).run();
    MeanField<Four>(window, image, options, threads).run();
}

// Without a step, or with one label, there is nothing to refine.
void share_out(const Window& window) {
    RowMemory memory(window);
    for (std::int64_t y = 0; y < window.height; ++y) {
        first_logits(window, y, memory.logits.get());
        rows().label_shares(memory.logits.get(), window.stride(), static_cast<int>(window.labels), window.stride(),
                            memory.first.get(), memory.shares.get());
        write_row(window, y, memory.first.get(), memory.shares.get());
    }
}

void check_options(const CrfOptions& options) {
    for (const float deviation : {options.gaussian_px, options.bilateral_px, options.bilateral_rgb})
        if (!(deviation > 0))
            throw std::invalid_argument("a standard deviation is " + std::to_string(deviation) +
                                        "; accepted: more than 0");
    if (options.steps < 0)
        throw std::invalid_argument("steps is " + std::to_string(options.steps) + "; accepted: 0 or more");
}

}  // namespace

void crf_refine(const float* unary, const float* image, float* probabilities, std::int64_t images, std::int64_t labels,
                std::int64_t height, std::int64_t width, const CrfOptions& options, int threads) {
    check_options(options);
    check_at_least_one("labels", labels);
    check_at_least_one("threads", threads);
    check_pointer("unary", unary, {images, labels, height, width});
    check_pointer("image", image, {images, 3, height, width});
    check_pointer("probabilities", probabilities, {images, labels, height, width});
    check_frame("unary", 8 * height, width);  // a pixel has six corners, counted in 32 bits
    if (images == 0 || height == 0 || width == 0) return;
    const std::int64_t plane = height * width;
    const auto run = [&](std::int64_t i, int team) {
        const Window window{unary + i * labels * plane, probabilities + i * labels * plane, labels, height, width};
        if (options.steps == 0 || labels == 1) return share_out(window);
        refine(window, image + i * 3 * plane, options, team);
    };
    const double nanoseconds = 10.0 * static_cast<double>(plane * (4 + labels) * (options.steps + 2));
    // As many images as keep every thread busy go one to a thread; the rest one after the other, each to all threads.
    const std::int64_t whole = images - images % threads;
    parallel_for(whole, threads_for(nanoseconds * static_cast<double>(whole), threads),
                 [&](std::int64_t i) { run(i, 1); });
    for (std::int64_t i = whole; i < images; ++i) run(i, threads_for(nanoseconds, threads));
}

}  // namespace f2f
