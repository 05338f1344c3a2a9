/* Sums of quotients of 4,096 doubles, while division by zero, overflow and invalid operations are unmasked. */
#include "bench.h"
#include <xmmintrin.h>

#define COUNT 4096
static double a[COUNT], b[COUNT];

static uint64_t work(uint64_t n)
{
	uint64_t state = 17, sum = 0;
	double total = 0;

	_mm_setcsr(_mm_getcsr() & ~(_MM_MASK_DIV_ZERO | _MM_MASK_OVERFLOW | _MM_MASK_INVALID));
	for (int i = 0; i < COUNT; i++) {
		a[i] = next_random(&state) / 65536.0;
		b[i] = 1.0 + next_random(&state) % 1000;
	}
	while (n--) {
		for (int i = 0; i < COUNT; i++)
			total += a[i] / b[i];
		b[n % COUNT] += 1.0;
	}
	memcpy(&sum, &total, sizeof sum);
	return sum;
}
