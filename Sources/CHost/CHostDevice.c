/* Control requests to block, CD-ROM and SCSI devices. */
#include "CHost.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

#ifdef __linux__
#include <linux/cdrom.h>
#include <linux/fs.h>
#include <scsi/scsi_ioctl.h>
#include <scsi/sg.h>

_Static_assert(PLATTER_CDROM_EJECT == CDROMEJECT, "eject");
_Static_assert(PLATTER_CDROM_CLOSE_TRAY == CDROMCLOSETRAY, "close tray");
_Static_assert(PLATTER_CDROM_MEDIA_CHANGED == CDROM_MEDIA_CHANGED, "media changed");
_Static_assert(PLATTER_CDROM_DRIVE_STATUS == CDROM_DRIVE_STATUS, "drive status");
_Static_assert(PLATTER_CDROM_LOCK_DOOR == CDROM_LOCKDOOR, "lock door");
_Static_assert(PLATTER_CDROM_CURRENT_SLOT == CDSL_CURRENT, "slot");
_Static_assert(PLATTER_CDROM_NO_INFO == CDS_NO_INFO && PLATTER_CDROM_NO_DISC == CDS_NO_DISC, "status");
_Static_assert(PLATTER_CDROM_TRAY_OPEN == CDS_TRAY_OPEN, "status");
_Static_assert(PLATTER_CDROM_NOT_READY == CDS_DRIVE_NOT_READY, "status");
_Static_assert(PLATTER_CDROM_DISC_OK == CDS_DISC_OK, "status");
_Static_assert(PLATTER_SG_VERSION == SG_GET_VERSION_NUM, "version");
#ifdef SCSI_IOCTL_DOORLOCK
_Static_assert(PLATTER_SCSI_LOCK_DOOR == SCSI_IOCTL_DOORLOCK, "lock door");
_Static_assert(PLATTER_SCSI_UNLOCK_DOOR == SCSI_IOCTL_DOORUNLOCK, "unlock door");
#endif
#endif

uint64_t platter_request_size(void) {
#ifdef BLKGETSIZE64
    return BLKGETSIZE64;
#else
    return 0;
#endif
}

uint64_t platter_request_sequence(void) {
#ifdef BLKGETDISKSEQ
    return BLKGETDISKSEQ;
#else
    return 0;
#endif
}

/* Repeats a request that a signal interrupted. */
#define REPEATED(call) \
    int result; \
    do { result = (call); } while (result == -1 && errno == EINTR); \
    if (result == -1) return errno; \
    *answer = result; \
    return 0

int platter_control_value(int fd, uint64_t request, int64_t value, int *answer) {
#ifdef __linux__
    REPEATED(ioctl(fd, (unsigned long)request, (long)value));
#else
    (void)fd, (void)request, (void)value, (void)answer;
    return ENOTSUP;
#endif
}

int platter_control_bytes(int fd, uint64_t request, void *bytes, int *answer) {
#ifdef __linux__
    REPEATED(ioctl(fd, (unsigned long)request, bytes));
#else
    (void)fd, (void)request, (void)bytes, (void)answer;
    return ENOTSUP;
#endif
}

int platter_scsi_send(int fd, platter_scsi_command *command) {
#ifdef __linux__
    static const int directions[] = {SG_DXFER_NONE, SG_DXFER_TO_DEV, SG_DXFER_FROM_DEV};
    if (command->direction > PLATTER_SCSI_FROM_DEVICE) return EINVAL;
    sg_io_hdr_t header;
    memset(&header, 0, sizeof header);
    header.interface_id = 'S';
    header.cmdp = (unsigned char *)command->command;
    header.cmd_len = command->command_bytes;
    header.dxfer_direction = directions[command->direction];
    header.dxferp = command->data;
    header.dxfer_len = command->data_bytes;
    header.timeout = command->timeout_milliseconds;
    header.sbp = command->sense;
    header.mx_sb_len = command->sense_bytes;
    if (ioctl(fd, SG_IO, &header) == -1) return errno;
    command->status = header.status;
    command->host_status = header.host_status;
    command->driver_status = header.driver_status;
    command->residual = header.resid;
    command->sense_bytes = header.sb_len_wr < command->sense_bytes ? header.sb_len_wr : command->sense_bytes;
    return 0;
#else
    (void)fd, (void)command;
    return ENOTSUP;
#endif
}
