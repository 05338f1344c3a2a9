/* Self-modifying code: a function of 100 bytes, one of whose instructions is rewritten before each of 100 calls. */
#include "bench.h"
#include "code.h"

static uint64_t work(uint64_t n)
{
	uint8_t *code = code_memory(4096), *at = emit_start(code), *patched = NULL;
	uint64_t sum = 0;

	for (int i = 0; i < 16; i++) {
		if (i == 8)
			patched = at;
		at = emit_add(at, i);
	}
	at = emit_return(at);
	CODE_IS_WRITTEN(code, at);
	for (uint64_t i = 0; i < 100 * n; i++) {
		uint8_t *end = emit_add(patched, i);
		CODE_IS_WRITTEN(patched, end);
		sum = ((uint64_t(*)(uint64_t))code)(sum);
	}
	return sum;
}
