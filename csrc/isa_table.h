// The table of one instruction set. Defines F2F_ISA::table; no include guard: see lanes.h.
#include "lanes.h"
#include "rows_cams.h"
#include "rows_costs.h"
#include "rows_crf.h"
#include "rows_labels.h"
#include "rows_soft.h"
#include "rows_warp.h"

#define F2F_TEXT_OF(name) #name
#define F2F_TEXT(name) F2F_TEXT_OF(name)

namespace f2f::F2F_ISA {

extern const Rows table;
const Rows table = {
    F2F_TEXT(F2F_ISA), kCamBlock,       kCostRows,        kLanes<float>, warp,           soft_warp,
    cam_columns,       cam_peak,        cam_bits,         count_bits,    labels,         sample<float>,
    sample<double>,    sum_taps<float>, sum_taps<double>, spread<float>, spread<double>, costs<float>,
    costs<double>,     gradient<float>, gradient<double>, embed,         add_taps,       first_logits,
    label_shares,
};

}  // namespace f2f::F2F_ISA
