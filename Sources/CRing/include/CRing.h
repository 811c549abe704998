#ifndef PLATTER_CRING_H
#define PLATTER_CRING_H
/* Requests to files through queues of the kernel: Linux AIO and io_uring.
 *
 * An engine belongs to one thread at a time and has one request under way. When a function returns, the
 * kernel does not touch the buffer any more. Functions that return int give 0 or an errno value; ENOTSUP
 * stands for "not in this build". */
#include <stddef.h>
#include <stdint.h>

struct platter_ring;

enum { platter_ring_native = 1, platter_ring_uring = 2 };

/* The kernel takes no requests from this engine any more: close it. The request may or may not have been
 * carried out, and must be made in another way. */
enum { platter_ring_unusable = -2 };

/* A new engine, or NULL and *error. */
struct platter_ring *platter_ring_open(int kind, int *error);
void platter_ring_close(struct platter_ring *ring);

/* The number of bytes; -1 and *error; or platter_ring_unusable. */
int64_t platter_ring_read(
    struct platter_ring *ring, int fd, void *bytes, size_t count, int64_t offset, int *error);
int64_t platter_ring_write(
    struct platter_ring *ring, int fd, const void *bytes, size_t count, int64_t offset, int *error);
#endif
