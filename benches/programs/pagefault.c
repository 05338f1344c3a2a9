/* Maps 64 pages, touches each, unmaps them. */
#include "bench.h"
#include <sys/mman.h>

static uint64_t work(uint64_t n)
{
	uint64_t sum = 0;

	while (n--) {
		volatile uint8_t *pages = mmap(NULL, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (pages == MAP_FAILED)
			exit(1);
		for (int i = 0; i < 64; i++) {
			sum += pages[i * 4096];
			pages[i * 4096] = 1;
			sum += pages[i * 4096];
		}
		munmap((void *)pages, 64 * 4096);
	}
	return sum;
}
