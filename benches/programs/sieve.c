/* Primes below 2^16 by the sieve of Eratosthenes. */
#include "bench.h"

#define LIMIT 65536
static uint8_t composite[LIMIT];

static uint64_t work(uint64_t n)
{
	uint64_t sum = 0;

	while (n--) {
		memset(composite, 0, LIMIT);
		for (unsigned i = 2; i < LIMIT; i++) {
			if (composite[i])
				continue;
			sum = mix(sum, i);
			for (unsigned j = 2 * i; j < LIMIT; j += i)
				composite[j] = 1;
		}
	}
	return sum;
}
