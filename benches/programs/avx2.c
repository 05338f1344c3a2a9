/* AVX2 and FMA: y = a * x + y in double precision, and integer lanes, over 4,096 elements. */
#include "bench.h"
#include <immintrin.h>

#define N 4096
static double x[N] __attribute__((aligned(32))), y[N] __attribute__((aligned(32)));
static uint32_t p[N] __attribute__((aligned(32)));

__attribute__((target("avx2,fma"))) static uint64_t vectors(uint64_t n)
{
	uint64_t sum = 0;

	while (n--) {
		__m256d a = _mm256_set1_pd(n & 1 ? 0.75 : -0.5);
		for (int i = 0; i < N; i += 4) {
			__m256d old = _mm256_mul_pd(_mm256_load_pd(y + i), _mm256_set1_pd(0.5));
			_mm256_store_pd(y + i, _mm256_fmadd_pd(a, _mm256_load_pd(x + i), old));
		}
		__m256i total = _mm256_setzero_si256();
		for (int i = 0; i < N; i += 8) {
			__m256i v = _mm256_load_si256((__m256i *)(p + i));
			v = _mm256_add_epi32(_mm256_mullo_epi32(v, _mm256_set1_epi32(0x01000193)), _mm256_srli_epi32(v, 7));
			_mm256_store_si256((__m256i *)(p + i), v);
			total = _mm256_xor_si256(total, _mm256_permute4x64_epi64(_mm256_shuffle_epi8(v, total), 0x4e));
		}
		sum = mix(sum, _mm256_extract_epi64(total, 0) + _mm256_extract_epi64(total, 3));
	}
	return sum;
}

static uint64_t work(uint64_t n)
{
	uint64_t state = 15, sum, bits;

	if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
		say("@skip avx2 the CPU has no AVX2 and FMA\n");
		exit(0);
	}
	for (int i = 0; i < N; i++) {
		x[i] = (int32_t)next_random(&state) / 2147483648.0;
		p[i] = next_random(&state);
	}
	sum = vectors(n);
	memcpy(&bits, &y[17], sizeof bits);
	return mix(sum, bits);
}
