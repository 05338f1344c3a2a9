/* Not a benchmark: prints WORK KiB of words and numbers, the input of the busybox benchmarks. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	static const char *const words[] = { "ring", "world", "guest", "page", "table", "walk", "fault", "entry", "exit",
		"state", "level", "stage", "virtual", "machine", "kernel", "trap" };
	uint64_t state = 19, size = argc == 2 ? strtoull(argv[1], NULL, 0) * 1024 : 0;

	for (uint64_t done = 0; done < size;) {
		state = state * 6364136223846793005u + 1442695040888963407u;
		uint32_t r = state >> 32;
		done += printf("%s %u %s-%s\n", words[r & 15], r >> 8 & 0xffff, words[r >> 4 & 15], words[r >> 24 & 15]);
	}
	return 0;
}
