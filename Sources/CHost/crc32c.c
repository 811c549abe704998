#include "CHost.h"

#include <pthread.h>
#include <string.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#include <asm/hwcap.h>
#endif

/* The polynomial 0x1EDC6F41 (Castagnoli), with its bits in reverse order. */
#define POLYNOMIAL 0x82F63B78u

/* tables[k][b] is what a byte b does to the checksum k bytes later. */
static uint32_t tables[8][256];
static pthread_once_t tables_made = PTHREAD_ONCE_INIT;

static void make_tables(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ ((value & 1) ? POLYNOMIAL : 0);
        tables[0][byte] = value;
    }
    for (int step = 1; step < 8; step++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t before = tables[step - 1][byte];
            tables[step][byte] = (before >> 8) ^ tables[0][before & 0xFF];
        }
}

/* Eight bytes a step, by tables. */
uint32_t platter_crc32c_portable(uint32_t value, const void *bytes, size_t count) {
    pthread_once(&tables_made, make_tables);
    const uint8_t *next = bytes;
    for (; count >= 8; count -= 8, next += 8) {
        uint32_t low = value ^ (next[0] | next[1] << 8 | next[2] << 16 | (uint32_t)next[3] << 24);
        value = tables[7][low & 0xFF] ^ tables[6][low >> 8 & 0xFF] ^ tables[5][low >> 16 & 0xFF] ^
                tables[4][low >> 24] ^ tables[3][next[4]] ^ tables[2][next[5]] ^ tables[1][next[6]] ^
                tables[0][next[7]];
    }
    for (; count > 0; count--, next++) value = (value >> 8) ^ tables[0][(value ^ *next) & 0xFF];
    return value;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t by_instruction(
    uint32_t value, const uint8_t *next, size_t count) {
    uint64_t wide = value, word;
    for (; count >= 8; count -= 8, next += 8) {
        memcpy(&word, next, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    value = (uint32_t)wide;
    for (; count > 0; count--, next++) value = __builtin_ia32_crc32qi(value, *next);
    return value;
}

static int has_instruction(void) { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__)
__attribute__((target("crc"))) static uint32_t by_instruction(
    uint32_t value, const uint8_t *next, size_t count) {
    uint64_t word;
    for (; count >= 8; count -= 8, next += 8) {
        memcpy(&word, next, 8);
        value = __builtin_arm_crc32cd(value, word);
    }
    for (; count > 0; count--, next++) value = __builtin_arm_crc32cb(value, *next);
    return value;
}

static int has_instruction(void) {
#ifdef __linux__
    return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#else
    return 1;
#endif
}
#else
static uint32_t by_instruction(uint32_t value, const uint8_t *next, size_t count) {
    return platter_crc32c_portable(value, next, count);
}

static int has_instruction(void) { return 0; }
#endif

uint32_t platter_crc32c(uint32_t value, const void *bytes, size_t count) {
    if (!has_instruction()) return platter_crc32c_portable(value, bytes, count);
    return by_instruction(value, bytes, count);
}
