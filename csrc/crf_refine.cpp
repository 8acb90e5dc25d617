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
constexpr double kCutOff = 4;                // standard deviations of the Gaussian kernel

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

void first_logits(const Window& window, std::int64_t y, float* logits) {
    rows().first_logits(window.unary + y * window.width, window.plane(), static_cast<int>(window.labels), window.width,
                        window.stride(), logits);
}

void write_row(const Window& window, std::int64_t y, const float* first, const float* shares) {
    float* to = window.probabilities + y * window.width;
    std::copy_n(first, window.width, to);
    for (std::int64_t c = 0; c < window.labels - 1; ++c)
        std::copy_n(shares + c * window.stride(), window.width, to + (c + 1) * window.plane());
}

// What one thread needs for a row of pixels.
struct RowMemory {
    explicit RowMemory(const Window& window, std::int64_t planes)
        : shares(make_zeros<float>(planes * window.stride())),
          logits(make_zeros<float>(planes * window.stride())),
          first(make_zeros<float>(window.stride())) {}
    Scratch<float> shares, logits;  // [planes, stride], labels 1.. and zeros
    Scratch<float> first;           // [stride], the share of label 0
};

// And what it needs for the kernels.
struct KernelMemory {
    KernelMemory(const Window& window, std::int64_t planes, std::int64_t most_cells, const GaussianAxis& x,
                 const GaussianAxis& y)
        : row(window, planes),
          padded(make_zeros<float>(window.stride() + 2 * x.reach)),
          messages(make_scratch<float>(most_cells * planes)),
          sums(make_scratch<float>(most_cells * planes)),
          taps(2 * y.reach + 1) {}
    RowMemory row;
    Scratch<float> padded;          // a row between zeros
    Scratch<float> messages, sums;  // [cells of a band, planes]
    std::vector<float> taps;
};

// The steps on one image. `Value` is float for two labels, whose one channel needs no vector, and Four for more.
template <typename Value>
class MeanField {
  public:
    MeanField(const Window& window, const float* image, const CrfOptions& options, int threads)
        : window_(window),
          options_(options),
          groups_((window.labels - 1 + kFloatsIn<Value> - 1) / kFloatsIn<Value>),
          x_(options.gaussian_px, window.width),
          y_(options.gaussian_px, window.height),
          cells_(
              make_cells(image, window.height, window.width, {options.bilateral_px, options.bilateral_rgb}, threads)),
          lattice_(make_lattice(cells_, {options.bilateral_px, options.bilateral_rgb}, threads)),
          norm_x_(window.stride(), 0.0f),
          norm_(make_scratch<float>(cells_.count())),
          values_(make_scratch<float>(cells_.count() * planes())) {
        std::copy(x_.norm.begin(), x_.norm.end(), norm_x_.begin());
        for (auto& points : points_) points = make_scratch<float>((lattice_.vertices + 1) * planes());
        for (auto& smooth : smooth_)
            smooth = make_scratch<float>((window.labels - 1) * window.height * window.stride());
        std::int64_t most_cells = 0;
        for (std::int64_t band = 0; band < cells_.bands; ++band)
            most_cells = std::max(most_cells, cells_.count_of(band));
        for (int i = 0; i < threads; ++i) memory_.emplace_back(window, planes(), most_cells, x_, y_);
    }

    void run() {
        const int members = static_cast<int>(memory_.size());
        Team team(members);
        run_team(members, [&](int member) { run_member(team, memory_[member]); });
    }

  private:
    std::int64_t planes() const { return groups_ * kFloatsIn<Value>; }

    void run_member(Team& team, KernelMemory& memory) {
        filter<float>(team, 1, cells_.pixels.get());
        team.share(cells_.bands, [&](std::int64_t band) { normalise(band, memory); });
        for (std::int64_t step = 0; step < options_.steps; ++step) {
            filter<Value>(team, groups_, values_.get());
            team.share(cells_.bands, [&](std::int64_t band) { update(band, step, memory); });
        }
    }

    // Cells to lattice points and a blur along every axis. An even number of axes: it ends where it began.
    template <typename T>
    void filter(Team& team, std::int64_t groups, float* values) {
        static_assert(kCorners % 2 == 0);
        const std::int64_t vertices = lattice_.vertices, pieces = (vertices + kVertexPiece - 1) / kVertexPiece;
        const auto in_pieces = [&](const auto& work) {
            team.share(groups * pieces, [&](std::int64_t i) {
                const std::int64_t group = i / pieces, first = i % pieces * kVertexPiece;
                work(group, first, std::min(vertices, first + kVertexPiece));
            });
        };
        in_pieces([&](std::int64_t group, std::int64_t first, std::int64_t end) {
            splat(lattice_, first, end, as<T>(values) + group * cells_.count(), points_of<T>(0, group));
            if (end == vertices)
                for (const int side : {0, 1}) points_of<T>(side, group)[vertices] = T{};
        });
        for (int axis = 0; axis < kCorners; ++axis)
            in_pieces([&](std::int64_t group, std::int64_t first, std::int64_t end) {
                blur_axis(lattice_, axis, first, end, points_of<T>(axis % 2, group), points_of<T>(1 - axis % 2, group));
            });
    }

    template <typename T>
    T* points_of(int side, std::int64_t group) {
        return as<T>(points_[side].get()) + group * (lattice_.vertices + 1);
    }

    // The norms of the cells, 1 / sqrt(what the kernel makes of ones), and the shares before the first step.
    void normalise(std::int64_t band, KernelMemory& memory) {
        for (std::int64_t cell = cells_.band_begin[band]; cell < cells_.band_begin[band + 1]; ++cell)
            norm_[cell] = 1.0f / std::sqrt(slice(lattice_, cell, points_of<float>(0, 0)) + 1e-20f);
        share_band(band, 0, memory, [&](std::int64_t) {});
    }

    // One step: messages, shares, and their way into the kernels for the next step.
    void update(std::int64_t band, std::int64_t step, KernelMemory& memory) {
        Value* message = as<Value>(memory.messages.get());
        for (std::int64_t cell = cells_.band_begin[band]; cell < cells_.band_begin[band + 1]; ++cell)
            for (std::int64_t group = 0; group < groups_; ++group)
                *message++ =
                    options_.bilateral_weight * norm_[cell] * slice(lattice_, cell, points_of<Value>(0, group));
        share_band(band, step + 1, memory, [&](std::int64_t y) {
            add_cells(cells_.cells_of(y), window_.width, as<Value>(memory.messages.get()), groups_,
                      memory.row.logits.get(), window_.stride());
            add_gaussian(y, step, memory);
        });
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

    // The band's shares from energies and messages, which `add_messages(y)` adds to the logits of a row: after the
    // last step the result, before it the input of both kernels.
    template <typename AddMessages>
    void share_band(std::int64_t band, std::int64_t step, KernelMemory& memory, const AddMessages& add_messages) {
        Value* sums = as<Value>(memory.sums.get());
        std::fill_n(sums, cells_.count_of(band) * groups_, Value{});
        for (std::int64_t y = cells_.first_row(band); y < cells_.end_row(band); ++y) {
            first_logits(window_, y, memory.row.logits.get());
            add_messages(y);
            share_row(y, step, memory);
        }
        for (std::int64_t cell = cells_.band_begin[band]; cell < cells_.band_begin[band + 1]; ++cell)
            for (std::int64_t group = 0; group < groups_; ++group)
                as<Value>(values_.get())[group * cells_.count() + cell] = norm_[cell] * *sums++;
    }

    void share_row(std::int64_t y, std::int64_t step, KernelMemory& memory) {
        float *shares = memory.row.shares.get(), *first = memory.row.first.get();
        const std::int64_t stride = window_.stride();
        rows().label_shares(memory.row.logits.get(), stride, static_cast<int>(window_.labels), stride, first, shares);
        if (step == options_.steps) return write_row(window_, y, first, shares);
        for (std::int64_t c = 0; c < window_.labels - 1; ++c) {
            for (std::int64_t x = 0; x < stride; ++x) shares[c * stride + x] -= first[x];
            smooth_along_row(shares + c * stride, memory.padded.get() + x_.reach, smooth_row(step, c, y));
        }
        add_to_cells(cells_.cells_of(y), window_.width, shares, stride, groups_, as<Value>(memory.sums.get()));
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
    const std::int64_t groups_;  // of labels, each one Value
    const GaussianAxis x_, y_;
    Cells cells_;
    Lattice lattice_;
    std::vector<float> norm_x_;         // padded with zeros
    Scratch<float> norm_;               // [cells]
    Scratch<float> values_;             // [groups, cells, floats in a Value]
    Scratch<float> points_[2];          // [groups, vertices + 1, floats in a Value]
    Scratch<float> smooth_[2];          // [labels - 1, height, stride]
    std::vector<KernelMemory> memory_;  // of each thread
};

void refine(const Window& window, const float* image, const CrfOptions& options, int threads) {
    check_reach(window.height, window.width, {options.bilateral_px, options.bilateral_rgb});
    if (window.labels == 2) return MeanField<float>(window, image, options, threads).run();
    MeanField<Four>(window, image, options, threads).run();
}

// Without a step, or with one label, there is nothing to refine.
void share_out(const Window& window) {
    RowMemory memory(window, window.labels - 1);
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
