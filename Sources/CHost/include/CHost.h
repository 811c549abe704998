#ifndef PLATTER_CHOST_H
#define PLATTER_CHOST_H
/* What Swift cannot import of the host's C library, under names of our own. */
int platter_host_version(void);
#endif
