// Builds the cells: in each band of rows pixels are numbered by their tile and their rounded colour.
#include "crf_cells.h"

#include <algorithm>

#include "crf_numbering.h"
#include "parallel.h"

namespace f2f {
namespace {

// A cell's extent in standard deviations: small beside what the lattice itself makes coarser.
constexpr float kTileDeviations = 0.5f, kColourDeviations = 0.8f;
constexpr float kMostTilePx = 32;
constexpr int kColourBits = 12;
constexpr std::int64_t kBandPixels = 8192;

typedef float Four __attribute__((vector_size(16)));

// Sums over a cell's pixels.
struct Sums {
    Four colours_and_pixels, x_and_y;
};

struct Band {
    Numbering<std::uint64_t> numbering;
    std::vector<Sums> sums;
};

// Of 0..1; 0 where it is NaN.
float colour(float given) { return given > 0 ? std::min(given, 1.0f) : 0.0f; }

class Builder {
  public:
    Builder(Cells& cells, const float* image, const Bilateral& deviations)
        : cells_(cells),
          image_(image),
          tile_px_(std::clamp(static_cast<std::int64_t>(std::min(kTileDeviations * deviations.px, kMostTilePx)),
                              std::int64_t{1}, std::int64_t{32})),
          bins_(std::clamp(255 / (kColourDeviations * deviations.rgb), 1.0f, (1 << kColourBits) - 1.0f)) {
        cells.band_rows = tile_px_ * std::max<std::int64_t>(1, kBandPixels / (cells.width * tile_px_));
        cells.bands = (cells.height + cells.band_rows - 1) / cells.band_rows;
    }

    void build(int threads) {
        std::vector<Band> bands(cells_.bands);
        parallel_for(cells_.bands, threads, [&](std::int64_t band) { number_band(band, bands[band]); });
        cells_.band_begin.push_back(0);
        for (const Band& band : bands)
            cells_.band_begin.push_back(cells_.band_begin.back() + static_cast<std::int64_t>(band.sums.size()));
        for (auto& feature : cells_.features) feature = make_zeros<float>(cells_.count() + kCellBlock);
        cells_.pixels = make_scratch<float>(cells_.count());
        for (std::int64_t band = 0; band < cells_.bands; ++band) take_means(bands[band], cells_.band_begin[band]);
    }

  private:
    // Tile by tile, so that a tile's cells stay in the cache.
    void number_band(std::int64_t number, Band& band) const {
        for (std::int64_t y = cells_.first_row(number); y < cells_.end_row(number); y += tile_px_)
            for (std::int64_t x = 0; x < cells_.width; x += tile_px_)
                for (std::int64_t row = y; row < std::min(y + tile_px_, cells_.end_row(number)); ++row)
                    number_row((y * cells_.width + x) << 3 * kColourBits, row, x, std::min(x + tile_px_, cells_.width),
                               band);
    }

    // Pixels x..end-1 of a row, all in one tile.
    void number_row(std::uint64_t tile, std::int64_t y, std::int64_t x, std::int64_t end, Band& band) const {
        const std::int64_t plane = cells_.height * cells_.width;
        for (std::int64_t i = y * cells_.width + x; x < end; ++x, ++i) {
            const Four colours = {colour(image_[i]), colour(image_[plane + i]), colour(image_[2 * plane + i]), 1};
            std::uint64_t key = tile;
            for (int j = 0; j < 3; ++j)
                key += static_cast<std::uint64_t>(static_cast<std::int32_t>(colours[j] * bins_)) << (j * kColourBits);
            const std::int32_t cell = band.numbering.number(key);
            if (cell == static_cast<std::int32_t>(band.sums.size())) band.sums.emplace_back();
            band.sums[cell].colours_and_pixels += colours;
            band.sums[cell].x_and_y += Four{static_cast<float>(x), static_cast<float>(y), 0, 0};
            cells_.cell_of[i] = cell;
        }
    }

    void take_means(const Band& band, std::int64_t cell) {
        for (const Sums& sums : band.sums) {
            const float pixels = sums.colours_and_pixels[3];
            cells_.features[0][cell] = sums.x_and_y[0] / pixels - 0.5f * static_cast<float>(cells_.width - 1);
            cells_.features[1][cell] = sums.x_and_y[1] / pixels - 0.5f * static_cast<float>(cells_.height - 1);
            for (int j = 0; j < 3; ++j) cells_.features[2 + j][cell] = sums.colours_and_pixels[j] / pixels - 0.5f;
            cells_.pixels[cell++] = pixels;
        }
    }

    Cells& cells_;
    const float* image_;
    const std::int64_t tile_px_;
    const float bins_;  // of each colour
};

}  // namespace

Cells make_cells(const float* image, std::int64_t height, std::int64_t width, const Bilateral& deviations,
                 int threads) {
    Cells cells{};
    cells.height = height;
    cells.width = width;
    cells.cell_of = make_scratch<std::int32_t>(height * width);
    Builder(cells, image, deviations).build(threads);
    return cells;
}

}  // namespace f2f
