/* The library's memcpy of 256 KiB at changing alignments. */
#include "bench.h"

#define SIZE (256 * 1024)
static uint8_t from[SIZE + 64], to[SIZE + 64];

static uint64_t work(uint64_t n)
{
	uint64_t state = 5, sum = 0;

	for (size_t i = 0; i < sizeof from; i++)
		from[i] = next_random(&state);
	while (n--) {
		memcpy(to + n % 61, from + n % 7, SIZE);
		sum = mix(sum, to[n % SIZE]);
		from[n % SIZE]++;
	}
	return sum;
}
