// Runs the C++ kernels over stored cases, in every instruction set this machine has and on 1, 2 and 5 threads, and
// compares with the stored results. Built with the address and undefined-behaviour sanitizers: `make sanitize`.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../isa.h"
#include "../kernels.h"

namespace {

using Size = std::int64_t;

class Case {
  public:
    explicit Case(const std::filesystem::path& path) : stream_(path, std::ios::binary) {
        std::string line;
        std::getline(stream_, line);
        std::istringstream words(line);
        words >> operation;
        sizes = {std::istream_iterator<Size>(words), std::istream_iterator<Size>()};
    }

    // The next array of the file, in memory of exactly its size: one element too far is an error.
    template <typename T>
    std::vector<T> read(Size count) {
        std::vector<T> values(count);
        stream_.read(reinterpret_cast<char*>(values.data()), count * sizeof(T));
        if (stream_.gcount() != static_cast<std::streamsize>(count * sizeof(T)))
            throw std::runtime_error("the case ends early");
        return values;
    }

    std::string operation;
    std::vector<Size> sizes;

  private:
    std::ifstream stream_;
};

template <typename T>
void expect_same(const char* what, const std::vector<T>& given, const std::vector<T>& wanted) {
    if (std::memcmp(given.data(), wanted.data(), wanted.size() * sizeof(T)) != 0)
        throw std::runtime_error(std::string(what) + " differs");
}

template <typename T>
void expect_close(const char* what, const std::vector<T>& given, const std::vector<T>& wanted, T tolerance) {
    T largest = 0;
    for (const T value : wanted) largest = std::max(largest, std::abs(value));
    for (std::size_t i = 0; i < wanted.size(); ++i)
        if (!(std::abs(given[i] - wanted[i]) <= tolerance * largest))
            throw std::runtime_error(std::string(what) + " differs at " + std::to_string(i) + ": " +
                                     std::to_string(given[i]) + ", not " + std::to_string(wanted[i]));
}

void run_warp_union(Case& stored, int threads) {
    const Size clips = stored.sizes[0], frames = stored.sizes[1], words = stored.sizes[2];
    const Size height = stored.sizes[3], width = stored.sizes[4], masks = words * height * width;
    const auto bits = stored.read<std::int32_t>(clips * frames * masks);
    const auto flow = stored.read<float>(clips * (frames - 1) * 2 * height * width);
    const auto steps = stored.read<std::int32_t>(clips * frames * masks);
    std::vector<std::int32_t> carried(steps.size()), last(clips * masks), wanted;
    f2f::warp_union(bits.data(), flow.data(), carried.data(), clips, frames, words, height, width, frames, threads);
    expect_same("carried", carried, steps);
    f2f::warp_union(bits.data(), flow.data(), last.data(), clips, frames, words, height, width, 1, threads);
    for (Size clip = 0; clip < clips; ++clip) {
        const auto begin = steps.begin() + ((clip + 1) * frames - 1) * masks;
        wanted.insert(wanted.end(), begin, begin + masks);
    }
    expect_same("the last frame", last, wanted);
}

void run_soft_union(Case& stored, int threads) {
    const Size clips = stored.sizes[0], frames = stored.sizes[1], planes = stored.sizes[2];
    const Size height = stored.sizes[3], width = stored.sizes[4], maps = planes * height * width;
    const auto values = stored.read<float>(clips * frames * maps);
    const auto flow = stored.read<float>(clips * (frames - 1) * 2 * height * width);
    const auto back = stored.read<float>(flow.size());
    const auto wanted = stored.read<float>(clips * maps);
    std::vector<float> united(wanted.size());
    f2f::soft_union(values.data(), flow.data(), back.data(), united.data(), clips, frames, planes, height, width,
                    threads);
    expect_same("the union", united, wanted);
}

// The tap tables of one axis.
struct Tables {
    Tables(Case& stored, Size size)
        : low(stored.read<std::int32_t>(size)),
          high(stored.read<std::int32_t>(size)),
          low_weight(stored.read<float>(size)),
          high_weight(stored.read<float>(size)) {}
    f2f::Axis axis() const { return {low.data(), high.data(), low_weight.data(), high_weight.data()}; }
    std::vector<std::int32_t> low, high;
    std::vector<float> low_weight, high_weight;
};

void run_activate_cams(Case& stored, int threads) {
    const Size images = stored.sizes[0], channels = stored.sizes[1], planes = stored.sizes[2];
    const Size height = stored.sizes[3], width = stored.sizes[4], count = stored.sizes[5];
    std::vector<std::vector<float>> values;
    std::vector<Tables> tables;
    std::vector<f2f::Cam> cams;
    for (Size i = 0; i < count; ++i)
        values.push_back(stored.read<float>(images * channels * stored.sizes[6 + 2 * i] * stored.sizes[7 + 2 * i]));
    for (Size i = 0; i < count; ++i) {
        tables.emplace_back(stored, height);
        tables.emplace_back(stored, width);
    }
    for (Size i = 0; i < count; ++i)
        cams.push_back({values[i].data(), stored.sizes[6 + 2 * i], stored.sizes[7 + 2 * i], tables[2 * i].axis(),
                        tables[2 * i + 1].axis()});
    const auto classes = stored.read<std::int64_t>(images * planes);
    const auto bits = stored.read<std::int32_t>(images * ((planes + 31) / 32) * height * width);
    const auto peaks = stored.read<float>(images * planes);
    std::vector<std::int32_t> made_bits(bits.size());
    std::vector<float> made_peaks(peaks.size());
    f2f::activate_cams(cams, classes.data(), 0.25f, made_bits.data(), made_peaks.data(), images, channels, planes,
                       height, width, threads);
    expect_same("peaks", made_peaks, peaks);
    expect_same("bits", made_bits, bits);
}

template <typename T>
void run_cost_volume(Case& stored, bool warped, T tolerance, int threads) {
    const f2f::Features size{stored.sizes[0], stored.sizes[1], stored.sizes[2], stored.sizes[3],
                             static_cast<int>(stored.sizes[4])};
    const Size plane = size.images * size.height * size.width, features = plane * size.channels;
    const Size side = 2 * size.reach + 1, costs = plane * side * side, flows = warped ? plane * 2 : 0;
    const auto f1 = stored.read<T>(features), f2 = stored.read<T>(features), flow = stored.read<T>(flows);
    const auto gradient = stored.read<T>(costs), wanted = stored.read<T>(costs);
    const auto wanted_f1 = stored.read<T>(features), wanted_f2 = stored.read<T>(features);
    const auto wanted_flow = stored.read<T>(flows);
    std::vector<T> made(costs), to_f1(features), to_f2(features), to_flow(flows);
    const T* along = warped ? flow.data() : nullptr;
    f2f::cost_volume<T>(f1.data(), f2.data(), along, made.data(), size, threads);
    expect_close("costs", made, wanted, tolerance);
    f2f::cost_volume_backward<T>(gradient.data(), f1.data(), f2.data(), along, to_f1.data(), to_f2.data(),
                                 to_flow.data(), size, threads);
    expect_close("the gradient by f1", to_f1, wanted_f1, tolerance);
    expect_close("the gradient by f2", to_f2, wanted_f2, tolerance);
    expect_close("the gradient by the flow", to_flow, wanted_flow, tolerance);
}

void run_compose_labels(Case& stored, int threads) {
    const Size images = stored.sizes[0], planes = stored.sizes[1], height = stored.sizes[2], width = stored.sizes[3];
    const auto bits = stored.read<std::int32_t>(images * ((planes + 31) / 32) * height * width);
    const auto classes = stored.read<std::int64_t>(images * planes);
    const auto saliency = stored.read<float>(images * height * width);
    const auto wanted = stored.read<std::uint8_t>(images * height * width);
    std::vector<std::uint8_t> labels(wanted.size());
    f2f::compose_labels(bits.data(), classes.data(), saliency.data(), 0.5f, labels.data(), images, planes, height,
                        width, threads);
    expect_same("labels", labels, wanted);
    f2f::compose_labels(bits.data(), classes.data(), nullptr, 0.5f, labels.data(), images, planes, height, width,
                        threads);
    for (std::size_t i = 0; i < wanted.size(); ++i)
        if (labels[i] != (wanted[i] == 0 ? 255 : wanted[i])) throw std::runtime_error("labels without saliency differ");
}

void run_minimum_barrier(Case& stored, int threads) {
    const Size images = stored.sizes[0], depth = stored.sizes[1], height = stored.sizes[2], width = stored.sizes[3];
    const auto channels = stored.read<float>(images * depth * height * width);
    const auto wanted = stored.read<float>(images * height * width);
    std::vector<float> distance(wanted.size());
    f2f::minimum_barrier(channels.data(), distance.data(), images, depth, height, width, stored.sizes[4], threads);
    expect_same("distance", distance, wanted);
}

// The lattice comes near the definition; on any number of threads it is as near.
void run_crf_refine(Case& stored, int threads) {
    const Size images = stored.sizes[0], labels = stored.sizes[1], height = stored.sizes[2], width = stored.sizes[3];
    const auto unary = stored.read<float>(images * labels * height * width);
    const auto image = stored.read<float>(images * 3 * height * width);
    const auto numbers = stored.read<float>(5);
    const auto wanted = stored.read<float>(unary.size());
    const f2f::CrfOptions options{stored.sizes[4], numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]};
    std::vector<float> alone(unary.size()), made(unary.size());
    f2f::crf_refine(unary.data(), image.data(), alone.data(), images, labels, height, width, options, 1);
    f2f::crf_refine(unary.data(), image.data(), made.data(), images, labels, height, width, options, threads);
    expect_same("the result on several threads", made, alone);
    double off = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) off += std::abs(made[i] - wanted[i]);
    if (!(off <= 0.02 * static_cast<double>(wanted.size())))
        throw std::runtime_error("probabilities are off by " + std::to_string(off / wanted.size()) + " on average");
}

void run(Case& stored, int threads) {
    const bool warped = stored.operation.rfind("warp_cost", 0) == 0;
    if (stored.operation == "warp_union") return run_warp_union(stored, threads);
    if (stored.operation == "activate_cams") return run_activate_cams(stored, threads);
    if (stored.operation == "compose_labels") return run_compose_labels(stored, threads);
    if (stored.operation == "minimum_barrier") return run_minimum_barrier(stored, threads);
    if (stored.operation == "soft_union") return run_soft_union(stored, threads);
    if (stored.operation == "crf_refine") return run_crf_refine(stored, threads);
    // The reference finds its places by way of a normalised grid, which costs it digits.
    if (stored.operation.find("f64") != std::string::npos)
        return run_cost_volume<double>(stored, warped, warped ? 1e-10 : 1e-12, threads);
    if (stored.operation.find("f32") != std::string::npos)
        return run_cost_volume<float>(stored, warped, warped ? 1e-4f : 1e-5f, threads);
    throw std::runtime_error("there is no operator " + stored.operation);
}

}  // namespace

int main(int count, char** arguments) {
    int done = 0, failed = 0;
    for (const std::string& isa : f2f::usable_isas())
        for (const int threads : {1, 2, 5})
            for (int i = 1; i < count; ++i) try {
                    f2f::use_isa(isa);
                    Case stored(arguments[i]);
                    run(stored, threads);
                    ++done;
                } catch (const std::exception& error) {
                    std::printf("%s, %d threads, %s: %s\n", isa.c_str(), threads, arguments[i], error.what());
                    ++failed;
                }
    std::printf("%d runs as stored, %d not\n", done, failed);
    return done == 0 || failed > 0;
}
