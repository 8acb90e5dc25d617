// What the C++ kernels refuse. Python has checked everything already; these guard against a caller that did not.
// Messages name the tensor, say what was given and what is accepted; pybind11 turns them into ValueError.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace f2f {

inline std::string shape_text(std::initializer_list<std::int64_t> shape) {
    std::string text = "[";
    for (const std::int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
    return text + "]";
}

// Refuses negative sizes and tensors of 2^62 elements or more.
inline void check_shape(const char* tensor, std::initializer_list<std::int64_t> shape) {
    std::int64_t elements = 1;
    for (const std::int64_t size : shape) {
        if (size < 0 || (size > 0 && elements > (std::int64_t{1} << 62) / size))
            throw std::invalid_argument(std::string(tensor) + " is " + shape_text(shape) +
                                        "; accepted: sizes of 0 or more, fewer than 2^62 elements in all");
        elements *= size;
    }
}

// Refuses a null pointer for a tensor that has elements.
inline void check_pointer(const char* tensor, const void* pointer, std::initializer_list<std::int64_t> shape) {
    check_shape(tensor, shape);
    for (const std::int64_t size : shape)
        if (size == 0) return;
    if (pointer == nullptr)
        throw std::invalid_argument(std::string(tensor) + " is " + shape_text(shape) +
                                    " at a null pointer; accepted: the address of its first element");
}

// Refuses a frame whose padded plane could not be indexed by 32-bit integers.
inline void check_frame(const char* tensor, std::int64_t height, std::int64_t width) {
    constexpr std::int64_t limit = std::int64_t{1} << 30;
    if (height + 8 > limit / (width + 8))
        throw std::invalid_argument(std::string(tensor) + " has frames of " + shape_text({height, width}) +
                                    " (height, width); accepted: fewer than 2^30 pixels");
}

// Refuses taps outside 0..size-1.
inline void check_taps(const char* tensor, const std::int32_t* taps, std::int64_t count, std::int64_t size) {
    for (std::int64_t i = 0; i < count; ++i)
        if (taps[i] < 0 || taps[i] >= size)
            throw std::invalid_argument(std::string(tensor) + " has a tap at " + std::to_string(taps[i]) +
                                        "; accepted: 0.." + std::to_string(size - 1));
}

inline void check_at_least_one(const char* name, std::int64_t value) {
    if (value < 1)
        throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + "; accepted: 1 or more");
}

}  // namespace f2f
