// Chooses the instruction set once, when the library is loaded.
#include "isa.h"

#include <atomic>
#include <fstream>
#include <stdexcept>

namespace f2f {

#if F2F_X86
namespace avx512 {
extern const Rows table;
}
namespace avx512_nogather {
extern const Rows table;
}
namespace avx2 {
extern const Rows table;
}
namespace avx2_nogather {
extern const Rows table;
}
#endif
namespace scalar {
extern const Rows table;
}

namespace {

#if F2F_X86
// Against the Downfall attack (gather data sampling) microcode made gathers slower than the loads they replace.
bool gathers_are_slow() {
    std::ifstream report("/sys/devices/system/cpu/vulnerabilities/gather_data_sampling");
    std::string state;
    return std::getline(report, state) && state.find("Not affected") == std::string::npos;
}

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

// Best first.
std::vector<const Rows*> find_usable() {
    std::vector<const Rows*> usable;
#if F2F_X86
    __builtin_cpu_init();
    const bool slow = gathers_are_slow(), fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (has_avx512() && fma) {
        usable.push_back(slow ? &avx512_nogather::table : &avx512::table);
        usable.push_back(slow ? &avx512::table : &avx512_nogather::table);
    }
    if (fma) {
        usable.push_back(slow ? &avx2_nogather::table : &avx2::table);
        usable.push_back(slow ? &avx2::table : &avx2_nogather::table);
    }
#endif
    usable.push_back(&scalar::table);
    return usable;
}

const std::vector<const Rows*>& usable() {
    static const std::vector<const Rows*> tables = find_usable();
    return tables;
}

std::atomic<const Rows*>& in_use() {
    static std::atomic<const Rows*> table{usable().front()};
    return table;
}

}  // namespace

const Rows& rows() { return *in_use(); }

std::vector<std::string> usable_isas() {
    std::vector<std::string> names;
    for (const Rows* table : usable()) names.emplace_back(table->name);
    return names;
}

void use_isa(const std::string& name) {
    std::string accepted;
    for (const Rows* table : usable()) {
        if (name == table->name) {
            in_use() = table;
            return;
        }
        accepted += (accepted.empty() ? "" : ", ") + std::string(table->name);
    }
    throw std::invalid_argument("the instruction set is " + name + "; accepted on this machine: " + accepted);
}

}  // namespace f2f
