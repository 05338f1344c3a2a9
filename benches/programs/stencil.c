/* Means of five neighbours in a square of 130 times 130 numbers in double precision, whose rows begin anywhere in pages. */
#include "bench.h"

#define N 130
static double from[N][N], to[N][N];

static void smooth(double out[N][N], double in[N][N])
{
	for (int i = 1; i < N - 1; i++)
		for (int j = 1; j < N - 1; j++)
			out[i][j] = 0.2 * (in[i][j] + in[i - 1][j] + in[i + 1][j] + in[i][j - 1] + in[i][j + 1]);
}

static uint64_t work(uint64_t n)
{
	uint64_t sum = 0;

	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++)
			from[i][j] = to[i][j] = i * j % 7;
	while (n--) {
		smooth(to, from);
		smooth(from, to);
		uint64_t bits;
		memcpy(&bits, &from[5][5], sizeof bits);
		sum = mix(sum, bits);
	}
	return sum;
}
