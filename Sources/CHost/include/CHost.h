#ifndef PLATTER_CHOST_H
#define PLATTER_CHOST_H
/* What Swift cannot import of the host's C library, under names of our own.
 *
 * Offsets and lengths are in bytes. Unless stated otherwise a function returns 0 when it worked and an errno
 * value when it did not; ENOTSUP stands for "no such call here". Interrupted calls are repeated. */
#include <stddef.h>
#include <stdint.h>

int platter_host_version(void);

/* At the start of the program: a pipe without reader and a limit on file sizes come back as errors of the
 * write, not as signals; standard streams that were closed become ones that fail, so that no image gets their
 * numbers. */
void platter_prepare_process(void);
/* The command line as the system gave it; Swift's own way to it needs /proc. NULL where the C library does
 * not give it to constructors. */
char *const *platter_arguments(void);
/* 1 when the signal is ignored, as nohup and shells' background jobs leave it. */
int platter_is_ignored(int signal);

/* Space: give back, zero and keep, reserve (growing the file), all without moving data. */
int platter_punch_hole(int fd, int64_t offset, int64_t length);
int platter_zero_range(int fd, int64_t offset, int64_t length);
int platter_allocate(int fd, int64_t offset, int64_t length);
/* Takes space without changing the length of the file. */
int platter_reserve(int fd, int64_t offset, int64_t length);

/* The next data or hole from offset on; -1 and *error where there is none (ENXIO) or it cannot be told. */
int64_t platter_seek_data(int fd, int64_t offset, int *error);
int64_t platter_seek_hole(int fd, int64_t offset, int *error);

/* Copies inside the kernel; the number of bytes copied, or -1 and *error. */
int64_t platter_copy_range(
    int source, int64_t source_offset, int target, int64_t target_offset, int64_t length, int *error);

/* Makes a range of `target` share the blocks of one of `source`, and both later writes copies. 0 or errno. */
int platter_share_range(
    int source, int64_t source_offset, int target, int64_t target_offset, int64_t length);

/* Begins to write to the disk what is only in memory. */
void platter_start_writeback(int fd);

/* Makes what was written durable. */
int platter_flush(int fd);

/* The open flag for going past the page cache; 0 where platter_disable_cache does it after opening. */
int platter_direct_flag(void);
int platter_disable_cache(int fd);
/* The alignment that direct I/O wants for offsets, lengths and memory; 0 when the system does not tell. */
uint32_t platter_direct_alignment(int fd);

/* Locks that belong to the open file, on one byte. Shared locks only; a test asks for an exclusive one. */
int platter_lock_shared(int fd, int64_t byte);
int platter_unlock(int fd, int64_t byte);
/* Sets *locked to whether another open file holds a lock on the byte. */
int platter_is_locked(int fd, int64_t byte, int *locked);

/* Moves the open file `from` to the descriptor number `to`, closing what that was. Closes `from`. */
int platter_replace_descriptor(int from, int to);

/* Block devices. */
int platter_device_size(int fd, int64_t *size);
uint32_t platter_device_sector_size(int fd);
int platter_device_discard(int fd, uint64_t offset, uint64_t length);
int platter_device_zero(int fd, uint64_t offset, uint64_t length);

/* File attributes at creation: no copy-on-write (btrfs), and how much to allocate at once (XFS). */
int platter_disable_copy_on_write(int fd);
int platter_set_extent_size(int fd, uint32_t bytes);

/* Gives a file another name on its file system, unless there is a file of that name: EEXIST. */
int platter_rename_new(const char *from, const char *to);

/* A file without a name in that folder; the descriptor, or -1 and *error. */
int platter_open_unnamed(const char *folder, int *error);

/* Finds a file beneath an open folder in one look-up that leaves it by no link and no "..": a descriptor that
 * tells what it is but neither reads nor writes (O_PATH), or -1 and *error: EXDEV for a name that leads out,
 * ENOSYS where the kernel has no such look-up. */
int platter_find_beneath(int folder, const char *name, int *error);
/* The open flag for descriptors of that kind. */
int platter_path_flag(void);

/* Large blocks of memory go back to the system when freed; they do not stay with their thread. */
void platter_return_large_blocks(void);

/* As many files as the system allows this process: a split disk may have thousands. */
void platter_raise_file_limit(void);

/* Whether the memory of this process may be dumped to a file or read by other programs of the same user.
 * platter_set_dumpable does nothing where the system has no such switch. */
int platter_is_dumpable(void);
void platter_set_dumpable(int dumpable);

/* CRC-32C's inner loop over some bytes: starts from and answers the checksum with all bits flipped. The
 * processor's instruction where it has one; the portable way is for tests. */
uint32_t platter_crc32c(uint32_t value, const void *bytes, size_t count);
uint32_t platter_crc32c_portable(uint32_t value, const void *bytes, size_t count);

/* Control requests to devices (ioctl), by Linux's numbers; CHostDevice.c compares these with the system's. */
enum {
    PLATTER_CDROM_EJECT = 0x5309,
    PLATTER_CDROM_CLOSE_TRAY = 0x5319,
    PLATTER_CDROM_MEDIA_CHANGED = 0x5325,
    PLATTER_CDROM_DRIVE_STATUS = 0x5326,
    PLATTER_CDROM_LOCK_DOOR = 0x5329,
    PLATTER_SCSI_LOCK_DOOR = 0x5380,
    PLATTER_SCSI_UNLOCK_DOOR = 0x5381,
    PLATTER_SG_VERSION = 0x2282,
    /* The slot of a drive without a changer. */
    PLATTER_CDROM_CURRENT_SLOT = 0x7fffffff,
    /* The answers of PLATTER_CDROM_DRIVE_STATUS. */
    PLATTER_CDROM_NO_INFO = 0,
    PLATTER_CDROM_NO_DISC = 1,
    PLATTER_CDROM_TRAY_OPEN = 2,
    PLATTER_CDROM_NOT_READY = 3,
    PLATTER_CDROM_DISC_OK = 4,
};
/* The size of a block device in bytes, as 64 bits; the number of changes of its medium, as 64 bits. 0 where
 * the system has no such request. */
uint64_t platter_request_size(void);
uint64_t platter_request_sequence(void);

/* One control request with a number or with bytes as its argument; *answer is what the call returned. */
int platter_control_value(int fd, uint64_t request, int64_t value, int *answer);
int platter_control_bytes(int fd, uint64_t request, void *bytes, int *answer);

/* The direction in which a SCSI command moves data. */
enum { PLATTER_SCSI_NO_DATA = 0, PLATTER_SCSI_TO_DEVICE = 1, PLATTER_SCSI_FROM_DEVICE = 2 };

typedef struct {
    const void *command;
    uint8_t command_bytes;
    uint8_t direction;
    void *data;
    uint32_t data_bytes;
    uint32_t timeout_milliseconds;
    void *sense;
    uint8_t sense_bytes;
    /* What the device answered; sense_bytes is the used part of the sense then. */
    uint8_t status;
    uint16_t host_status;
    uint16_t driver_status;
    int32_t residual;
} platter_scsi_command;

/* Sends one SCSI command (SG_IO). An interrupted one is not repeated: it may have reached the device. */
int platter_scsi_send(int fd, platter_scsi_command *command);
#endif
