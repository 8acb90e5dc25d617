// Class activation maps of all scales and flips, made as wide and high as the frame row by row: first for the peaks,
// then, where a row can hold anything above the threshold, for the bits. No full-size map of floats ever exists.
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

struct Job {
    const std::vector<Cam>& cams;
    const std::int64_t* classes;  // [images, planes]
    std::int64_t images, channels, planes, height, width;
    std::int64_t padded_width() const {
        const std::int64_t block = rows().cam_block;
        return (width + block - 1) / block * block;
    }
};

std::int64_t widest(const Job& job) {
    std::int64_t width = 0;
    for (const Cam& cam : job.cams) width = std::max(width, cam.width);
    return width;
}

// One class of one image: its CAMs, each with the two rows that the current pixel row lies between.
class ClassRows {
  public:
    explicit ClassRows(const Job& job)
        : job_(job),
          stride_(job.padded_width()),
          wide_(make_zeros<float>(job.cams.size() * 2 * stride_)),
          narrow_(make_zeros<float>(widest(job) + rows().cam_block)),
          held_(job.cams.size() * 2, -1),
          maps_(job.cams.size()) {}

    void start(std::int64_t image, std::int64_t channel) {
        image_ = image;
        channel_ = channel;
        std::fill(held_.begin(), held_.end(), -1);
    }

    // The CAMs around pixel row y.
    const CamRows* at(std::int64_t y) {
        for (std::size_t map = 0; map < job_.cams.size(); ++map) {
            const Axis& axis = job_.cams[map].vertical;
            maps_[map] = {row_of(map, axis.low[y]), row_of(map, axis.high[y]), axis.low_weight[y], axis.high_weight[y]};
        }
        return maps_.data();
    }

  private:
    // Row `row` of a CAM, as wide as the frame. Even and odd rows have a place each: neighbours never evict each other.
    const float* row_of(std::size_t map, std::int32_t row) {
        const std::size_t place = map * 2 + row % 2;
        float* wide = wide_.get() + place * stride_;
        if (held_[place] != row) {
            const Cam& cam = job_.cams[map];
            const float* values = cam.values + ((image_ * job_.channels + channel_) * cam.height + row) * cam.width;
            std::copy_n(values, cam.width, narrow_.get());
            const Axis& axis = cam.horizontal;
            rows().cam_columns(narrow_.get(), axis.low, axis.high, axis.low_weight, axis.high_weight, job_.width, wide);
            held_[place] = row;
        }
        return wide;
    }

    const Job& job_;
    std::int64_t stride_, image_ = 0, channel_ = 0;
    Scratch<float> wide_, narrow_;  // narrow_: one row as it is, with room behind it
    std::vector<std::int32_t> held_;
    std::vector<CamRows> maps_;
};

// Rows first..end-1 of one image.
struct Band {
    std::int64_t image, first, end;
};

// Enough bands to keep every thread busy.
std::vector<Band> cut_into_bands(const Job& job, int threads) {
    const std::int64_t bands = job.images >= threads ? 1 : std::min<std::int64_t>(job.height, threads);
    std::vector<Band> all;
    for (std::int64_t image = 0; image < job.images; ++image)
        for (std::int64_t band = 0; band < bands; ++band)
            all.push_back({image, part_begin(job.height, band, bands), part_begin(job.height, band + 1, bands)});
    return all;
}

// row_peaks [images, planes, height]
void find_row_peaks(const Job& job, const Band& band, float* row_peaks) {
    ClassRows maps(job);
    for (std::int64_t plane = 0; plane < job.planes; ++plane) {
        const std::int64_t channel = job.classes[band.image * job.planes + plane];
        float* peaks = row_peaks + (band.image * job.planes + plane) * job.height;
        maps.start(band.image, channel);
        for (std::int64_t y = band.first; y < band.end; ++y)
            peaks[y] = channel < 0 ? 0.0f : rows().cam_peak(maps.at(y), static_cast<int>(job.cams.size()), job.width);
    }
}

void set_bits(const Job& job, const Band& band, const float* row_peaks, const float* peaks, float theta,
              std::int32_t* bits) {
    ClassRows maps(job);
    const std::int64_t words = (job.planes + 31) / 32, row_words = (band.end - band.first) * job.width;
    for (std::int64_t word = 0; word < words; ++word)
        std::memset(bits + ((band.image * words + word) * job.height + band.first) * job.width, 0,
                    row_words * sizeof(std::int32_t));
    for (std::int64_t plane = 0; plane < job.planes; ++plane) {
        const std::int64_t listed = band.image * job.planes + plane, channel = job.classes[listed];
        if (channel < 0) continue;
        const float threshold = theta * (peaks[listed] + kPeakEpsilon);
        const auto bit = static_cast<std::int32_t>(std::uint32_t{1} << (plane % 32));
        maps.start(band.image, channel);
        for (std::int64_t y = band.first; y < band.end; ++y)
            if (row_peaks[listed * job.height + y] > threshold)
                rows().cam_bits(maps.at(y), static_cast<int>(job.cams.size()), job.width, threshold, bit,
                                bits + ((band.image * words + plane / 32) * job.height + y) * job.width);
    }
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
    threads = threads_for(images * planes * height * width * static_cast<std::int64_t>(cams.size()), threads);
    const std::vector<Band> bands = cut_into_bands(job, threads);
    const Scratch<float> row_peaks = make_scratch<float>(images * planes * height);
    const auto count = static_cast<std::int64_t>(bands.size());
    parallel_for(count, threads, [&](std::int64_t band) { find_row_peaks(job, bands[band], row_peaks.get()); });
    for (std::int64_t i = 0; i < images * planes; ++i)
        peaks[i] = *std::max_element(row_peaks.get() + i * height, row_peaks.get() + (i + 1) * height);
    parallel_for(count, threads,
                 [&](std::int64_t band) { set_bits(job, bands[band], row_peaks.get(), peaks, theta, bits); });
}

}  // namespace f2f
