/* Adds to 65,536 words of 48 MiB in a random order. */
#include "bench.h"

#define PAGES 12288
static struct page {
	uint64_t word[512];
} pages[PAGES] __attribute__((aligned(4096)));

static uint64_t work(uint64_t n)
{
	uint64_t state = 3, sum = 0;

	while (n--)
		for (int i = 0; i < 65536; i++) {
			uint32_t r = next_random(&state);
			sum += pages[r % PAGES].word[r >> 20 & 511] += i;
		}
	return sum;
}
