/* Product of two integer matrices of 64 x 64, without SIMD. */
#include "bench.h"

#define N 64
static uint32_t a[N][N], b[N][N], c[N][N];

__attribute__((optimize("no-tree-vectorize"))) static uint64_t work(uint64_t n)
{
	uint64_t state = 1, sum = 0;

	for (int i = 0; i < N * N; i++) {
		a[i / N][i % N] = next_random(&state);
		b[i / N][i % N] = next_random(&state);
	}
	while (n--) {
		for (int i = 0; i < N; i++)
			for (int j = 0; j < N; j++) {
				uint32_t dot = 0;
				for (int k = 0; k < N; k++)
					dot += a[i][k] * b[k][j];
				c[i][j] = dot;
			}
		sum = mix(sum, c[n % N][n / N % N]);
		a[n % N][0] = sum;
	}
	return sum;
}
