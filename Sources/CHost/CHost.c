#include "CHost.h"
int platter_host_version(void) { return 1; }
