#include "CRing.h"

#include <errno.h>
#include <stdlib.h>

#ifdef __linux__
#include <linux/aio_abi.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if __has_include(<liburing.h>)
#include <liburing.h>
#define HAS_URING 1
#endif
#endif

/* How often a kernel that is short of memory or was interrupted is asked again to take a request. */
#define MAX_TRIES 16

/* Answers of the functions below that are no errno values of the kernel's. */
enum { NOT_TAKEN = -100000 };

struct platter_ring {
    int kind;
#ifdef __linux__
    aio_context_t native;
#ifdef HAS_URING
    struct io_uring uring;
    /* Numbers the requests, so that a completion is known to be of the one that waits for it. */
    uint64_t sequence;
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
static int is_temporary(int error) { return error == EINTR || error == EAGAIN || error == EBUSY; }

static void pause_a_moment(void) {
    struct timespec moment = {.tv_nsec = 200000};
    nanosleep(&moment, NULL);
}

/* Has the kernel take the request: 0, or NOT_TAKEN. */
static int native_submit(struct platter_ring *ring, struct iocb *request) {
    for (int tries = 0; tries < MAX_TRIES; tries++) {
        long taken = syscall(SYS_io_submit, ring->native, 1, &request);
        if (taken == 1) return 0;
        if (taken < 0 && !is_temporary(errno)) break;
        pause_a_moment();
    }
    return NOT_TAKEN;
}

/* Waits for the request that was taken: the kernel uses its buffer until then. Bytes, an errno value below
 * zero, or NOT_TAKEN after the context had to be destroyed, which waits too. */
static int64_t native_wait(struct platter_ring *ring) {
    struct io_event event;
    for (int tries = 0; tries < MAX_TRIES; tries++) {
        if (syscall(SYS_io_getevents, ring->native, 1, 1, &event, NULL) == 1) return event.res;
        pause_a_moment();
    }
    syscall(SYS_io_destroy, ring->native);
    ring->native = 0;
    return NOT_TAKEN;
}

static int64_t native_transfer(
    struct platter_ring *ring, int fd, uintptr_t bytes, size_t count, int64_t offset, int writes) {
    struct iocb request;
    memset(&request, 0, sizeof request);
    request.aio_fildes = fd;
    request.aio_lio_opcode = writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
    request.aio_buf = bytes;
    request.aio_nbytes = count;
    request.aio_offset = offset;
    int taken = native_submit(ring, &request);
    return taken == 0 ? native_wait(ring) : taken;
}

#ifdef HAS_URING
/* Has the kernel take what is queued. Only the ring itself tells whether it did: a call that was interrupted
 * may have come either way. 0, or NOT_TAKEN: the request is still in the ring, which must be closed. */
static int uring_submit(struct platter_ring *ring) {
    for (int tries = 0; tries < MAX_TRIES; tries++) {
        int result = io_uring_submit_and_wait(&ring->uring, 1);
        if (io_uring_sq_ready(&ring->uring) == 0) return 0;
        if (result < 0 && !is_temporary(-result)) break;
        pause_a_moment();
    }
    return NOT_TAKEN;
}

/* Waits for the request that was taken, whatever the calls for waiting answer: the kernel uses its buffer
 * until then, and puts the completion into memory that is seen without a call. */
static int64_t uring_wait(struct platter_ring *ring) {
    struct io_uring_cqe *answer;
    for (;;) {
        if (io_uring_peek_cqe(&ring->uring, &answer) != 0) {
            if (io_uring_wait_cqe(&ring->uring, &answer) != 0) pause_a_moment();
            continue;
        }
        uint64_t sequence = answer->user_data;
        int64_t done = answer->res;
        io_uring_cqe_seen(&ring->uring, answer);
        if (sequence == ring->sequence) return done;
    }
}

static int64_t uring_transfer(
    struct platter_ring *ring, int fd, uintptr_t bytes, size_t count, int64_t offset, int writes) {
    struct io_uring_sqe *request = io_uring_get_sqe(&ring->uring);
    if (!request) return NOT_TAKEN;
    if (writes) io_uring_prep_write(request, fd, (const void *)bytes, count, offset);
    else io_uring_prep_read(request, fd, (void *)bytes, count, offset);
    request->user_data = ++ring->sequence;
    int taken = uring_submit(ring);
    return taken == 0 ? uring_wait(ring) : taken;
}
#endif
#endif

static int64_t attempt(
    struct platter_ring *ring, int fd, uintptr_t bytes, size_t count, int64_t offset, int writes) {
#ifdef __linux__
    if (ring->kind == platter_ring_native) return native_transfer(ring, fd, bytes, count, offset, writes);
#ifdef HAS_URING
    if (ring->kind == platter_ring_uring) return uring_transfer(ring, fd, bytes, count, offset, writes);
#endif
#endif
    return NOT_TAKEN;
}

static int64_t transfer(
    struct platter_ring *ring, int fd, uintptr_t bytes, size_t count, int64_t offset, int writes,
    int *error) {
    int64_t done;
    int tries = 0;
    /* Counts are of 32 bits below; callers go on after a short transfer. */
    if (count > 1 << 30) count = 1 << 30;
    do {
        done = attempt(ring, fd, bytes, count, offset, writes);
    } while ((done == -EINTR || done == -EAGAIN) && ++tries < MAX_TRIES);
    if (done >= 0) return done;
    if (done == NOT_TAKEN) return platter_ring_unusable;
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
