/* SHA-256 (FIPS 180-4) compression of 16 KiB. The round constants are computed: cube roots of the first primes. */
#include "bench.h"

static uint32_t k[64];
static uint8_t data[16384];

static uint32_t ror(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

/* The first 32 bits of the fraction of the cube root of p, by bisection on integers. */
static uint32_t cube_root_fraction(uint32_t p)
{
	uint64_t low = 0, high = (uint64_t)8 << 32;
	while (high - low > 1) {
		unsigned __int128 mid = (low + high) / 2;
		/* mid^3 / 2^96 against p: mid has 36 bits, mid^3 has 108. */
		if (mid * mid * mid <= (unsigned __int128)p << 96)
			low = mid;
		else
			high = mid;
	}
	return low;
}

static void compress(uint32_t h[8], const uint8_t *block)
{
	uint32_t w[64], s[8];

	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t a = w[i - 15], b = w[i - 2];
		w[i] = w[i - 16] + (ror(a, 7) ^ ror(a, 18) ^ a >> 3) + w[i - 7] + (ror(b, 17) ^ ror(b, 19) ^ b >> 10);
	}
	memcpy(s, h, sizeof s);
	for (int i = 0; i < 64; i++) {
		uint32_t a = s[0], e = s[4];
		uint32_t t1 = s[7] + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + k[i] + w[i];
		uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
		memmove(s + 1, s, 7 * sizeof *s);
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += s[i];
}

static uint64_t work(uint64_t n)
{
	uint32_t h[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
	int count = 0;

	for (uint32_t p = 2; count < 64; p++) {
		uint32_t d = 2;
		while (d * d <= p && p % d)
			d++;
		if (d * d > p)
			k[count++] = cube_root_fraction(p);
	}
	while (n--)
		for (size_t i = 0; i < sizeof data; i += 64)
			compress(h, data + i);
	return (uint64_t)h[0] << 32 | h[7];
}
