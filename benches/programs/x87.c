/* The Mandelbrot set in extended precision, 400 points: the x87 unit. */
#include "bench.h"

static uint64_t work(uint64_t n)
{
	uint64_t sum = 0;

	while (n--)
		for (int p = 0; p < 400; p++) {
			long double cx = -2.0L + p * 0.006L, cy = 0.3L, x = 0, y = 0;
			int i = 0;

			for (; i < 60 && x * x + y * y < 4; i++) {
				long double next = x * x - y * y + cx;
				y = 2 * x * y + cy;
				x = next;
			}
			sum = mix(sum, i);
		}
	return sum;
}
