/* Strong pseudoprimes to four bases among odd numbers of 64 bits: products of 128 bits, divided by 64. */
#include "bench.h"

/* a * b mod m; all are below m. */
static inline uint64_t multiply(uint64_t a, uint64_t b, uint64_t m)
{
	uint64_t high, low, quotient;

	__asm__("mulq %3" : "=a"(low), "=d"(high) : "0"(a), "r"(b) : "cc");
	__asm__("divq %4" : "=a"(quotient), "=d"(high) : "0"(low), "1"(high), "r"(m) : "cc");
	return high;
}

static int is_witness(uint64_t base, uint64_t n)
{
	uint64_t odd = n - 1, power = 1;
	int twos = 0;

	for (; odd % 2 == 0; odd /= 2)
		twos++;
	for (uint64_t square = base % n; odd; odd /= 2) {
		if (odd & 1)
			power = multiply(power, square, n);
		square = multiply(square, square, n);
	}
	if (power == 1 || power == n - 1)
		return 0;
	while (--twos > 0) {
		power = multiply(power, power, n);
		if (power == n - 1)
			return 0;
	}
	return 1;
}

static int has_small_factor(uint64_t n)
{
	for (uint32_t p = 3; p < 200; p += 2)
		if (n % p == 0)
			return 1;
	return 0;
}

static uint64_t work(uint64_t n)
{
	uint64_t state = 99, sum = 0;

	while (n--) {
		uint64_t candidate = (uint64_t)next_random(&state) << 32 | next_random(&state) | 1;

		if (has_small_factor(candidate)) {
			sum = mix(sum, candidate);
			continue;
		}
		for (uint64_t base = 2; base < 6; base++)
			sum = mix(sum, candidate + is_witness(base, candidate));
	}
	return sum;
}
