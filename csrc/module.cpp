// The extension module f2f.kernels._C: one binding per kernel, data pointers and checked shapes in, GIL released.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_C, m) { m.doc() = "C++ versions of f2f's kernels"; }
