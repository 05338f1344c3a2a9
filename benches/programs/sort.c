/* Heap sort of 8,192 random words. */
#include "bench.h"

#define N 8192
static uint32_t v[N];

static void sift(unsigned root, unsigned end)
{
	for (;;) {
		unsigned child = 2 * root + 1;
		if (child >= end)
			return;
		if (child + 1 < end && v[child] < v[child + 1])
			child++;
		if (v[root] >= v[child])
			return;
		uint32_t t = v[root];
		v[root] = v[child];
		v[child] = t;
		root = child;
	}
}

static uint64_t work(uint64_t n)
{
	uint64_t state = 7, sum = 0;

	while (n--) {
		for (int i = 0; i < N; i++)
			v[i] = next_random(&state);
		for (int i = N / 2; i--;)
			sift(i, N);
		for (unsigned end = N - 1; end; end--) {
			uint32_t t = v[0];
			v[0] = v[end];
			v[end] = t;
			sift(0, end);
		}
		for (int i = 1; i < N; i++)
			if (v[i - 1] > v[i])
				return 0;
		sum = mix(sum, v[N / 2]);
	}
	return sum;
}
