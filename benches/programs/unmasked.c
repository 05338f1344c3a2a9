/* Sums of quotients of 4,096 doubles, in SSE's registers and on the x87 unit, while division by zero, overflow and invalid
 * operations are unmasked for both. */
#define _GNU_SOURCE
#include "bench.h"
#include <fenv.h>

#define COUNT 4096
static double a[COUNT], b[COUNT];

static uint64_t work(uint64_t n)
{
	uint64_t state = 17, bits;
	double total = 0;
	long double extended = 0;

	feenableexcept(FE_DIVBYZERO | FE_OVERFLOW | FE_INVALID);
	for (int i = 0; i < COUNT; i++) {
		a[i] = next_random(&state) / 65536.0;
		b[i] = 1.0 + next_random(&state) % 1000;
	}
	while (n--) {
		for (int i = 0; i < COUNT; i++) {
			total += a[i] / b[i];
			extended += a[i] / (long double)b[i];
		}
		b[n % COUNT] += 1.0;
	}
	total += extended;
	memcpy(&bits, &total, sizeof bits);
	return bits;
}
