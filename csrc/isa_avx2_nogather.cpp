// The rows for AVX2, without gathers, which some processors' microcode has made slow.
#include "isa.h"

#if F2F_X86
#pragma GCC target("avx2,fma")
#define F2F_ISA avx2_nogather
#define F2F_VECTOR_BYTES 32
#define F2F_GATHERS 0
#include "isa_table.h"
#endif
