/* Reads and writes one word in each 4 KiB plus a line of 8 MiB: a new page every time. */
#include "bench.h"

#define SIZE (8 << 20)
static uint64_t words[SIZE / 8];

static uint64_t work(uint64_t n)
{
	uint64_t sum = 0;

	while (n--)
		for (size_t at = 0; at < SIZE / 8; at += (4096 + 64) / 8) {
			words[at] += n + at;
			sum += words[at];
		}
	return sum;
}
