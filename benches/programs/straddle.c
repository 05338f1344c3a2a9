/* As nbody, with a body that lies across a page's end. */
#include "bench.h"
#include <math.h>

struct body {
	double x[3], v[3], mass;
};
static const struct body initial[5] = {
	{ { 0, 0, 0 }, { 0, 0, 0 }, 39.5 },
	{ { 4.8, -1.2, -0.1 }, { 0.6, 2.8, -0.03 }, 0.038 },
	{ { 8.3, 4.1, -0.4 }, { -1.0, 1.8, 0.01 }, 0.011 },
	{ { 12.9, -15.1, -0.2 }, { 1.1, 0.9, -0.01 }, 0.0017 },
	{ { 15.4, -25.9, 0.2 }, { 1.0, 0.6, -0.03 }, 0.002 },
};
/* The last one lies across a page's end. */
static char pages[2][4096] __attribute__((aligned(4096)));
#define bodies ((struct body *)(pages[1] - 256))

static void step(double dt)
{
	for (int i = 0; i < 5; i++)
		for (int j = i + 1; j < 5; j++) {
			double d[3], square = 0;
			for (int k = 0; k < 3; k++) {
				d[k] = bodies[i].x[k] - bodies[j].x[k];
				square += d[k] * d[k];
			}
			double force = dt / (square * sqrt(square));
			for (int k = 0; k < 3; k++) {
				bodies[i].v[k] -= d[k] * bodies[j].mass * force;
				bodies[j].v[k] += d[k] * bodies[i].mass * force;
			}
		}
	for (int i = 0; i < 5; i++)
		for (int k = 0; k < 3; k++)
			bodies[i].x[k] += dt * bodies[i].v[k];
}

static uint64_t work(uint64_t n)
{
	uint64_t sum = 0;

	memcpy(bodies, initial, sizeof initial);
	while (n--)
		for (int i = 0; i < 100; i++)
			step(0.001);
	for (int i = 0; i < 5; i++) {
		uint64_t bits;
		memcpy(&bits, &bodies[i].x[0], sizeof bits);
		sum = mix(sum, bits);
	}
	return sum;
}
