// Random words as a function of a counter, as `random.philox` has them on the CPU.
#pragma once

typedef long long int64;
typedef unsigned long long uint64;

// Philox4x64-10 (Salmon, Moraes, Dror & Shaw 2011): makes four random words of a counter.
__device__ void philox_words(uint64* x, uint64 seed, uint64 stream) {
    for (int round = 0; round < 10; round++) {
        uint64 even = x[0], third = x[2];
        x[0] = __umul64hi(0xCA5A826395121157, third) ^ x[1] ^ seed;
        x[1] = 0xCA5A826395121157 * third;
        x[2] = __umul64hi(0xD2E7470EE14C6C93, even) ^ x[3] ^ stream;
        x[3] = 0xD2E7470EE14C6C93 * even;
        seed += 0x9E3779B97F4A7C15;
        stream += 0xBB67AE8584CAA73B;
    }
}
