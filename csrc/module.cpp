// The extension module f2f.kernels._C: one binding per kernel, data pointers and checked shapes in, GIL released.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "kernels.h"

namespace py = pybind11;
using Address = std::uintptr_t;  // what Tensor.data_ptr() returns

PYBIND11_MODULE(_C, m) {
    m.doc() = "C++ versions of f2f's kernels; call them through f2f.kernels.native, which checks the tensors.";
    m.def(
        "warp_union",
        [](Address bits, Address flow_xy_px, Address carried, std::int64_t clips, std::int64_t frames,
           std::int64_t words, std::int64_t height, std::int64_t width, std::int64_t kept, int threads) {
            f2f::warp_union(reinterpret_cast<const std::int32_t*>(bits), reinterpret_cast<const float*>(flow_xy_px),
                            reinterpret_cast<std::int32_t*>(carried), clips, frames, words, height, width, kept,
                            threads);
        },
        py::call_guard<py::gil_scoped_release>());
    m.def(
        "minimum_barrier",
        [](Address channels, Address distance, std::int64_t images, std::int64_t depth, std::int64_t height,
           std::int64_t width, std::int64_t passes, int threads) {
            f2f::minimum_barrier(reinterpret_cast<const float*>(channels), reinterpret_cast<float*>(distance), images,
                                 depth, height, width, passes, threads);
        },
        py::call_guard<py::gil_scoped_release>());
}
