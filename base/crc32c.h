/* CRC-32C checksums (Castagnoli, polynomial 0x1EDC6F41 reflected; RFC 3720 appendix B.4), computed
 * by SSE 4.2 instructions if the processor has them. crc32c(0, "123456789", 9) == 0xe3069283. */
#ifndef CELFORGE_BASE_CRC32C_H
#define CELFORGE_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Returns the checksum of all bytes so far. `crc` is the checksum of the bytes before `data`, 0 for
 * the first call. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);
/* The same from lookup tables, on any processor. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t size);

#endif
