// The rows for AVX2, with gathers.
#include "isa.h"

#if F2F_X86
#pragma GCC target("avx2,fma")
#define F2F_ISA avx2
#define F2F_VECTOR_BYTES 32
#define F2F_GATHERS 1
#include "isa_table.h"
#endif
