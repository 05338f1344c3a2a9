/* The C library's exponential function, sine and logarithm, 500 times each. */
#include "bench.h"
#include <math.h>

static uint64_t work(uint64_t n)
{
	uint64_t sum = 0;
	double total = 0;

	while (n--) {
		for (int i = 0; i < 500; i++) {
			double x = i * 0.01;
			total += exp(-x) * sin(x) + log(1 + x);
		}
		uint64_t bits;
		memcpy(&bits, &total, sizeof bits);
		sum = mix(sum, bits);
	}
	return sum;
}
