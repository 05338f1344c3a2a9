/* SSE2 and SSE single precision: y = a * x + y, and a sum of absolute differences, over 4,096 elements. */
#include "bench.h"
#include <emmintrin.h>

#define N 4096
static float x[N] __attribute__((aligned(16))), y[N] __attribute__((aligned(16)));
static uint8_t p[N] __attribute__((aligned(16))), q[N] __attribute__((aligned(16)));

static uint64_t work(uint64_t n)
{
	uint64_t state = 13, sum = 0;

	for (int i = 0; i < N; i++) {
		x[i] = (int32_t)next_random(&state) / 2147483648.0f;
		p[i] = next_random(&state);
		q[i] = next_random(&state);
	}
	while (n--) {
		__m128 a = _mm_set1_ps(n & 1 ? 0.75f : -0.5f);
		for (int i = 0; i < N; i += 4) {
			__m128 scaled = _mm_mul_ps(_mm_load_ps(y + i), _mm_set1_ps(0.5f));
			_mm_store_ps(y + i, _mm_add_ps(_mm_mul_ps(a, _mm_load_ps(x + i)), scaled));
		}
		__m128i total = _mm_setzero_si128();
		for (int i = 0; i < N; i += 16) {
			__m128i l = _mm_load_si128((__m128i *)(p + i)), r = _mm_load_si128((__m128i *)(q + i));
			total = _mm_add_epi64(total, _mm_sad_epu8(l, r));
			_mm_store_si128((__m128i *)(p + i), _mm_avg_epu8(_mm_adds_epu8(l, r), _mm_xor_si128(l, r)));
		}
		sum = mix(sum, _mm_cvtsi128_si64(_mm_add_epi64(total, _mm_unpackhi_epi64(total, total))));
	}
	uint32_t bits;
	memcpy(&bits, &y[17], sizeof bits);
	return mix(sum, bits);
}
