/* A translator at work: ten new functions of 64 instructions, in turn through 64 KiB of code memory, each called ten
 * times. */
#include "bench.h"
#include "code.h"

#define SIZE 65536

static uint64_t work(uint64_t n)
{
	uint8_t *code = code_memory(SIZE), *at = code;
	uint64_t state = 17, sum = 0;

	for (uint64_t i = 0; i < 10 * n; i++) {
		if (at + 512 > code + SIZE)
			at = code;
		uint8_t *start = at;
		at = emit_start(at);
		for (int k = 0; k < 64; k++)
			at = emit_add(at, next_random(&state));
		at = emit_return(at);
		CODE_IS_WRITTEN(start, at);
		for (int k = 0; k < 10; k++)
			sum = ((uint64_t(*)(uint64_t))start)(sum);
		at = start + (at - start + 63) / 64 * 64;
	}
	return sum;
}
