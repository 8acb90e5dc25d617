// The extension module f2f.kernels._C: one binding per kernel, addresses and checked shapes in, GIL released.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <string>

#include "isa.h"
#include "kernels.h"

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;  // what Tensor.data_ptr() returns
using AxisAddresses = std::array<Address, 4>;
using CamAddresses = std::tuple<Address, std::int64_t, std::int64_t, AxisAddresses, AxisAddresses>;
using Sizes = std::array<std::int64_t, 4>;  // images, channels, height, width

template <typename T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

f2f::Axis axis_at(const AxisAddresses& tables) {
    return {at<const std::int32_t>(tables[0]), at<const std::int32_t>(tables[1]), at<const float>(tables[2]),
            at<const float>(tables[3])};
}

f2f::Cam cam_at(const CamAddresses& cam) {
    const auto& [values, height, width, vertical, horizontal] = cam;
    return {at<const float>(values), height, width, axis_at(vertical), axis_at(horizontal)};
}

f2f::Features features_of(const Sizes& sizes, int reach) { return {sizes[0], sizes[1], sizes[2], sizes[3], reach}; }

void activate_cams(const std::vector<CamAddresses>& cams, Address classes, float theta, Address bits, Address peaks,
                   std::int64_t images, std::int64_t channels, std::int64_t planes, std::int64_t height,
                   std::int64_t width, int threads) {
    std::vector<f2f::Cam> maps;
    for (const CamAddresses& cam : cams) maps.push_back(cam_at(cam));
    f2f::activate_cams(maps, at<const std::int64_t>(classes), theta, at<std::int32_t>(bits), at<float>(peaks), images,
                       channels, planes, height, width, threads);
}

void warp_union(Address bits, Address flow_xy_px, Address carried, std::int64_t clips, std::int64_t frames,
                std::int64_t words, std::int64_t height, std::int64_t width, std::int64_t kept, int threads) {
    f2f::warp_union(at<const std::int32_t>(bits), at<const float>(flow_xy_px), at<std::int32_t>(carried), clips, frames,
                    words, height, width, kept, threads);
}

void soft_union(Address maps, Address flow_xy_px, Address return_xy_px, Address united, std::int64_t clips,
                std::int64_t frames, std::int64_t planes, std::int64_t height, std::int64_t width, int threads) {
    f2f::soft_union(at<const float>(maps), at<const float>(flow_xy_px), at<const float>(return_xy_px),
                    at<float>(united), clips, frames, planes, height, width, threads);
}

template <typename T>
void cost_volume(Address f1, Address f2, Address flow_xy_px, Address costs, const Sizes& sizes, int reach,
                 int threads) {
    f2f::cost_volume(at<const T>(f1), at<const T>(f2), at<const T>(flow_xy_px), at<T>(costs), features_of(sizes, reach),
                     threads);
}

template <typename T>
void cost_volume_backward(Address gradient, Address f1, Address f2, Address flow_xy_px, Address to_f1, Address to_f2,
                          Address to_flow, const Sizes& sizes, int reach, int threads) {
    f2f::cost_volume_backward(at<const T>(gradient), at<const T>(f1), at<const T>(f2), at<const T>(flow_xy_px),
                              at<T>(to_f1), at<T>(to_f2), at<T>(to_flow), features_of(sizes, reach), threads);
}

void compose_labels(Address bits, Address classes, Address saliency, float theta_b, Address labels, std::int64_t images,
                    std::int64_t planes, std::int64_t height, std::int64_t width, int threads) {
    f2f::compose_labels(at<const std::int32_t>(bits), at<const std::int64_t>(classes), at<const float>(saliency),
                        theta_b, at<std::uint8_t>(labels), images, planes, height, width, threads);
}

void minimum_barrier(Address channels, Address distance, std::int64_t images, std::int64_t depth, std::int64_t height,
                     std::int64_t width, std::int64_t passes, int threads) {
    f2f::minimum_barrier(at<const float>(channels), at<float>(distance), images, depth, height, width, passes, threads);
}

void crf_refine(Address unary, Address image, Address probabilities, const Sizes& sizes, std::int64_t steps,
                const std::array<float, 5>& numbers, int threads) {
    const f2f::CrfOptions options{steps, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]};
    f2f::crf_refine(at<const float>(unary), at<const float>(image), at<float>(probabilities), sizes[0], sizes[1],
                    sizes[2], sizes[3], options, threads);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "C++ versions of f2f's kernels; call them through f2f.kernels.native, which checks the tensors.";
    const py::call_guard<py::gil_scoped_release> without_gil;
    m.def("activate_cams", &activate_cams, without_gil);
    m.def("warp_union", &warp_union, without_gil);
    m.def("soft_union", &soft_union, without_gil);
    m.def("cost_volume_f32", &cost_volume<float>, without_gil);
    m.def("cost_volume_f64", &cost_volume<double>, without_gil);
    m.def("cost_volume_backward_f32", &cost_volume_backward<float>, without_gil);
    m.def("cost_volume_backward_f64", &cost_volume_backward<double>, without_gil);
    m.def("compose_labels", &compose_labels, without_gil);
    m.def("minimum_barrier", &minimum_barrier, without_gil);
    m.def("crf_refine", &crf_refine, without_gil);
    m.def("usable_isas", &f2f::usable_isas);
    m.def("use_isa", &f2f::use_isa);
    m.def("isa", [] { return std::string(f2f::rows().name); });
}
