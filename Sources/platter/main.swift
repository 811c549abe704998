#if canImport(Darwin)
    import Darwin
#else
    import Glibc
#endif
import PlatterCommands

exit(PlatterProgram.run())
