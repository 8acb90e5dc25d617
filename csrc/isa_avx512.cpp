// The rows for AVX-512, with gathers.
#include "isa.h"

#if F2F_X86
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#define F2F_ISA avx512
#define F2F_VECTOR_BYTES 64
#define F2F_GATHERS 1
#include "isa_table.h"
#endif
