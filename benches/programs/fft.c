/* Fourier transforms of 1,024 complex numbers in double precision, in place, by powers of two. */
#include "bench.h"
#include <math.h>

#define N 1024
static double re[N], im[N], cosines[N], sines[N];

static void transform(void)
{
	for (int i = 1, j = 0; i < N; i++) {
		int bit = N >> 1;
		for (; j & bit; bit >>= 1)
			j ^= bit;
		j ^= bit;
		if (i < j) {
			double r = re[i], s = im[i];
			re[i] = re[j];
			im[i] = im[j];
			re[j] = r;
			im[j] = s;
		}
	}
	for (int size = 2; size <= N; size <<= 1)
		for (int first = 0; first < N; first += size)
			for (int k = 0; k < size / 2; k++) {
				int low = first + k, high = low + size / 2, turn = k * (N / size);
				double r = re[high] * cosines[turn] - im[high] * sines[turn];
				double s = re[high] * sines[turn] + im[high] * cosines[turn];
				re[high] = re[low] - r;
				im[high] = im[low] - s;
				re[low] += r;
				im[low] += s;
			}
}

static uint64_t work(uint64_t n)
{
	uint64_t sum = 0;

	for (int i = 0; i < N; i++) {
		re[i] = i % 17;
		im[i] = i % 5;
		cosines[i] = cos(2 * M_PI * i / N);
		sines[i] = -sin(2 * M_PI * i / N);
	}
	while (n--) {
		transform();
		/* What it grows by on average. */
		for (int i = 0; i < N; i++) {
			re[i] *= 1 / 32.0;
			im[i] *= 1 / 32.0;
		}
		uint64_t bits;
		memcpy(&bits, &re[3], sizeof bits);
		sum = mix(sum, bits);
	}
	return sum;
}
