#ifndef PLATTER_CZLIB_SHIM_H
#define PLATTER_CZLIB_SHIM_H
#include <zlib.h>

/* zlib's inflateInit2 is a macro, which Swift cannot import. */
static inline int platter_inflate_init2(z_stream *stream, int window_bits) {
    return inflateInit2(stream, window_bits);
}
#endif
