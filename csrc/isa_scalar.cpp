// The rows for every processor: taps are scalar loads, vectors those of the platform (16 bytes).
#include "isa.h"

#define F2F_ISA scalar
#define F2F_VECTOR_BYTES 16
#define F2F_GATHERS 0
#include "isa_table.h"
