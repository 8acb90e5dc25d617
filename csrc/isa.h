// Instruction sets: which there are, which this machine has, which is used.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "rows.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define F2F_X86 1
#include <immintrin.h>
#else
#define F2F_X86 0
#endif

namespace f2f {

// Names of the sets this machine can run, best first; the last one is "scalar".
std::vector<std::string> usable_isas();

// Uses the set of this name from now on; std::invalid_argument if this machine cannot run it.
void use_isa(const std::string& name);

}  // namespace f2f
