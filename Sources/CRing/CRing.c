#include "CRing.h"

#include <errno.h>
#include <stdlib.h>

#ifdef __linux__
#include <linux/aio_abi.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#if __has_include(<liburing.h>)
#include <liburing.h>
#define HAS_URING 1
#endif
#endif

struct platter_ring {
    int kind;
#ifdef __linux__
    aio_context_t native;
#ifdef HAS_URING
    struct io_uring uring;
#endif
#endif
};

static int setup(struct platter_ring *ring) {
#ifdef __linux__
    if (ring->kind == platter_ring_native) {
        return syscall(SYS_io_setup, 1, &ring->native) == 0 ? 0 : errno;
    }
#ifdef HAS_URING
    if (ring->kind == platter_ring_uring) return -io_uring_queue_init(2, &ring->uring, 0);
#endif
#endif
    return ENOTSUP;
}

struct platter_ring *platter_ring_open(int kind, int *error) {
    struct platter_ring *ring = calloc(1, sizeof *ring);
    if (!ring) {
        *error = ENOMEM;
        return NULL;
    }
    ring->kind = kind;
    *error = setup(ring);
    if (*error == 0) return ring;
    free(ring);
    return NULL;
}

void platter_ring_close(struct platter_ring *ring) {
#ifdef __linux__
    if (ring->kind == platter_ring_native) syscall(SYS_io_destroy, ring->native);
#ifdef HAS_URING
    if (ring->kind == platter_ring_uring) io_uring_queue_exit(&ring->uring);
#endif
#endif
    free(ring);
}

#ifdef __linux__
/* Bytes, or an errno value below zero. */
static int64_t native_transfer(
    struct platter_ring *ring, int fd, uintptr_t bytes, size_t count, int64_t offset, int writes) {
    struct iocb request;
    struct iocb *requests[1] = {&request};
    struct io_event event;
    memset(&request, 0, sizeof request);
    request.aio_fildes = fd;
    request.aio_lio_opcode = writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
    request.aio_buf = bytes;
    request.aio_nbytes = count;
    request.aio_offset = offset;
    if (syscall(SYS_io_submit, ring->native, 1, requests) != 1) return -errno;
    long got;
    /* A request that was taken must be waited for: the kernel uses its buffer. */
    do {
        got = syscall(SYS_io_getevents, ring->native, 1, 1, &event, NULL);
    } while (got != 1 && errno == EINTR);
    return got == 1 ? event.res : -EIO;
}

#ifdef HAS_URING
static int64_t uring_transfer(
    struct platter_ring *ring, int fd, uintptr_t bytes, size_t count, int64_t offset, int writes) {
    struct io_uring_sqe *request = io_uring_get_sqe(&ring->uring);
    struct io_uring_cqe *answer;
    if (!request) return -EBUSY;
    if (writes) io_uring_prep_write(request, fd, (const void *)bytes, count, offset);
    else io_uring_prep_read(request, fd, (void *)bytes, count, offset);
    int result = io_uring_submit_and_wait(&ring->uring, 1);
    if (result < 0 && result != -EINTR) return result;
    do { result = io_uring_wait_cqe(&ring->uring, &answer); } while (result == -EINTR);
    if (result < 0) return result;
    int64_t done = answer->res;
    io_uring_cqe_seen(&ring->uring, answer);
    return done;
}
#endif
#endif

static int64_t transfer(
    struct platter_ring *ring, int fd, uintptr_t bytes, size_t count, int64_t offset, int writes,
    int *error) {
    int64_t done = -ENOTSUP;
    /* Counts are of 32 bits below; callers go on after a short transfer. */
    if (count > 1 << 30) count = 1 << 30;
#ifdef __linux__
    if (ring->kind == platter_ring_native) done = native_transfer(ring, fd, bytes, count, offset, writes);
#ifdef HAS_URING
    if (ring->kind == platter_ring_uring) done = uring_transfer(ring, fd, bytes, count, offset, writes);
#endif
#endif
    if (done >= 0) return done;
    *error = (int)-done;
    return -1;
}

int64_t platter_ring_read(
    struct platter_ring *ring, int fd, void *bytes, size_t count, int64_t offset, int *error) {
    return transfer(ring, fd, (uintptr_t)bytes, count, offset, 0, error);
}

int64_t platter_ring_write(
    struct platter_ring *ring, int fd, const void *bytes, size_t count, int64_t offset, int *error) {
    return transfer(ring, fd, (uintptr_t)bytes, count, offset, 1, error);
}
