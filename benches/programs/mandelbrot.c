/* The Mandelbrot set at 64 x 64 points, at most 100 iterations each. */
#include "bench.h"

static uint64_t work(uint64_t n)
{
	uint64_t sum = 0;

	while (n--)
		for (int py = 0; py < 64; py++)
			for (int px = 0; px < 64; px++) {
				double cx = px / 24.0 - 2.0, cy = py / 24.0 - 1.33 + n * 1e-6, x = 0, y = 0;
				int i = 0;
				while (i < 100 && x * x + y * y < 4) {
					double t = x * x - y * y + cx;
					y = 2 * x * y + cy;
					x = t;
					i++;
				}
				sum = sum * 31 + i;
			}
	return sum;
}
