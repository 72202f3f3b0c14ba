/* CRC-32C (Castagnoli, polynomial 0x1EDC6F41 reflected; RFC 3720 appendix B.4), in hardware where
 * the processor has SSE 4.2. crc32c(0, "123456789", 9) == 0xe3069283. */
#ifndef CELFORGE_BASE_CRC32C_H
#define CELFORGE_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continues from `crc`, the value of the bytes so far; 0 to start. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);
/* The table-driven way, whatever the processor: the tests' reference for the other. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t size);

#endif
