/* Gravitation of five bodies, 100 steps in double precision. */
#include "bench.h"
#include <math.h>

struct body {
	double x[3], v[3], mass;
};
/* Bytes before the bodies, and their alignment: as the compiler likes it, or by straddle.c. */
#ifndef BEFORE
#define BEFORE 0
#define ALIGNED
#endif
static struct {
	char before[BEFORE];
	struct body bodies[5];
} all ALIGNED = { .bodies = {
	{ { 0, 0, 0 }, { 0, 0, 0 }, 39.5 },
	{ { 4.8, -1.2, -0.1 }, { 0.6, 2.8, -0.03 }, 0.038 },
	{ { 8.3, 4.1, -0.4 }, { -1.0, 1.8, 0.01 }, 0.011 },
	{ { 12.9, -15.1, -0.2 }, { 1.1, 0.9, -0.01 }, 0.0017 },
	{ { 15.4, -25.9, 0.2 }, { 1.0, 0.6, -0.03 }, 0.002 },
} };
#define bodies all.bodies

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
