// The rows for AVX-512, without gathers, which some processors' microcode has made slow.
#include "isa.h"

#if F2F_X86
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#define F2F_ISA avx512_nogather
#define F2F_VECTOR_BYTES 64
#define F2F_GATHERS 0
#include "isa_table.h"
#endif
