/// All commands of the shell, sorted by name.
enum IoCatalog {
    static func verb(named name: String, asQemu: Bool = false) -> IoVerb? {
        let verbs = verbs(asQemu: asQemu)
        return verbs.first { $0.name == name } ?? verbs.first { $0.alias == name }
    }

    /// The commands that there are, under the name of QEMU's program or our own.
    static func verbs(asQemu: Bool) -> [IoVerb] { asQemu ? all.filter { !$0.isOwn } : all }

    private static let all: [IoVerb] =
        (control + files + transfers + zones + IoJobs.verbs + [IoStatistics.verb]).sorted {
            $0.name < $1.name
        }

    private static let statistics = [
        "-C  one line of numbers: bytes, requests, time, bytes and requests a second", "-q  print no result",
    ]
    private static let registered = "-r  a wish that memory be registered; nothing here needs it"
    private static let verifying =
        ["-P  check that every byte is this one", "-v  print the bytes"] + statistics
    private static let filling =
        ["-P  write this byte rather than 0xcd", "-f  make the data durable before going on"] + statistics

    private static let control = [
        IoVerb(
            name: "abort", summary: "end the program with abort(3), as in a crash", maximum: 0,
            work: .shell(IoControl.abortProgram)),
        IoVerb(
            name: "break", arguments: "event tag",
            summary: "hold the next request that meets the event, under the name of the tag",
            help: ["The image must have been opened through blkdebug: 'open blkdebug::FILE'."], minimum: 2,
            maximum: 2, work: .image(IoControl.setBreak)),
        IoVerb(
            name: "help", alias: "?", arguments: "[command]", summary: "tell of one or all commands",
            maximum: 1, work: .shell(IoControl.help)),
        IoVerb(
            name: "quit", alias: "q", summary: "end the program", maximum: 0, work: .shell(IoControl.quit)),
        IoVerb(
            name: "remove_break", arguments: "tag",
            summary: "remove a breakpoint and let go the requests it holds", minimum: 1, maximum: 1,
            work: .image(IoControl.removeBreak)),
        IoVerb(
            name: "resume", arguments: "tag", summary: "let the request that is held under the tag go on",
            minimum: 1, maximum: 1, work: .image(IoControl.resume)),
        IoVerb(
            name: "sigraise", arguments: "signal", summary: "raise the signal with that number", minimum: 1,
            maximum: 1, work: .shell(IoControl.raiseSignal)),
        IoVerb(
            name: "sleep", arguments: "ms", summary: "wait for so many milliseconds", minimum: 1, maximum: 1,
            work: .shell(IoControl.sleep)),
        IoVerb(
            name: "wait_break", arguments: "tag", summary: "wait until a request is held under the tag",
            minimum: 1, maximum: 1, work: .image(IoControl.waitForBreak)),
    ]

    private static let files = [
        IoVerb(
            name: "alloc", alias: "a", arguments: "offset [count]",
            summary: "tell how much of a range is allocated in this layer", minimum: 1, maximum: 2,
            work: .image(IoFiles.allocation)),
        IoVerb(
            name: "close", alias: "c", summary: "close the image", maximum: 0, work: .image(IoFiles.close)),
        IoVerb(
            name: "discard", alias: "d", arguments: "[-Cq] off len", summary: "give a range's space back",
            help: statistics, minimum: 2, writes: true, work: .disk(IoFiles.discard)),
        IoVerb(
            name: "flush", alias: "f", summary: "make everything that was written durable", maximum: 0,
            work: .disk(IoFiles.flush)),
        IoVerb(
            name: "info", alias: "i", summary: "tell format, cluster size and what else the format knows",
            maximum: 0, work: .image(IoFiles.info)),
        IoVerb(
            name: "length", alias: "l", summary: "tell the size of the disk", maximum: 0,
            work: .disk(IoFiles.length)),
        IoVerb(
            name: "map", arguments: "", summary: "tell which ranges are allocated in this layer", maximum: 0,
            work: .image(IoFiles.map)),
        IoVerb(
            name: "open", alias: "o",
            arguments: "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]", summary: "open an image",
            help: [
                "-r  without writing", "-s  write to a temporary file that is thrown away",
                "-C  store what is read from the backing file in the image",
                "-n  past the page cache, as -t none", "-k  through Linux AIO, as -i native",
                "-i  how requests reach the file: threads, native, io_uring",
                "-U  even while another program writes to it",
                "-t  the cache mode: none, writeback, writethrough, directsync, unsafe",
                "-d  what discard does to the file: ignore (off), unmap (on)",
                "-o  open options: driver=FMT,file.filename=NAME,...",
            ], minimum: 1, work: .shell(IoFiles.open)),
        IoVerb(
            name: "reopen", arguments: "[(-r|-w)] [-c cache] [-o options]",
            summary: "go on with the image in another mode",
            help: [
                "-r  without writing", "-w  with writing", "-c  with another cache mode",
                "-o  with other open options",
            ], work: .image(IoFiles.reopen)),
        IoVerb(
            name: "truncate", alias: "t", arguments: "[-m prealloc_mode] off",
            summary: "change the size of the disk",
            help: ["-m  how space is reserved: off, metadata, falloc, full"], minimum: 1, maximum: 3,
            writes: true, work: .disk(IoFiles.truncate)),
    ]

    private static let transfers = [
        IoVerb(
            name: "aio_flush", summary: "wait for all requests that are under way", maximum: 0,
            work: .disk(IoAsynchronous.flush)),
        IoVerb(
            name: "aio_read", arguments: "[-Ciqrv] [-P pattern] off len [len..]",
            summary: "begin to read, and take further commands",
            help: verifying + ["-i  count as an invalid request and read nothing", registered], minimum: 2,
            work: .disk(IoAsynchronous.read)),
        IoVerb(
            name: "aio_write", arguments: "[-Cfiqruz] [-P pattern] off len [len..]",
            summary: "begin to write, and take further commands",
            help: filling + [
                "-i  count as an invalid request and write nothing", "-z  write zeroes as the format can",
                "-u  with -z: the space may be given back", registered,
            ], minimum: 2, writes: true, work: .disk(IoAsynchronous.write)),
        IoVerb(
            name: "read", alias: "r", arguments: "[-abCqrv] [-P pattern [-s off] [-l len]] off len",
            summary: "read a range",
            help: verifying + [
                "-s  with -P: check from this byte of the range on", "-l  with -P: check so many bytes",
                "-b  read from the saved machine state", registered,
                "-a, -p  taken for old scripts; without a meaning",
            ], minimum: 2, work: .disk(IoTransfers.read)),
        IoVerb(
            name: "readv", arguments: "[-Cqrv] [-P pattern] off len [len..]",
            summary: "read a range into several buffers", help: verifying + [registered], minimum: 2,
            work: .disk(IoTransfers.readVector)),
        IoVerb(
            name: "write", alias: "w", arguments: "[-bcCfnqruz] [-P pattern | -s source_file] off len",
            summary: "write a range",
            help: filling + [
                "-s  write the bytes of this file, over and over", "-b  write to the saved machine state",
                "-c  write compressed", "-z  write zeroes as the format can",
                "-u  with -z: the space may be given back", "-n  with -z: fail rather than write bytes",
                registered, "-p  taken for old scripts; without a meaning",
            ], minimum: 2, writes: true, work: .disk(IoTransfers.write)),
        IoVerb(
            name: "writev", arguments: "[-Cfqr] [-P pattern] off len [len..]",
            summary: "write a range from several buffers", help: filling + [registered], minimum: 2,
            writes: true, work: .disk(IoTransfers.writeVector)),
    ]

    private static let zones = [
        IoVerb(
            name: "zone_append", alias: "zap", arguments: "offset len [len..]",
            summary: "append to a zone (no storage here has zones)", minimum: 2, writes: true,
            work: IoControl.zone("append")),
        IoVerb(
            name: "zone_close", alias: "zc", arguments: "offset len",
            summary: "close zones (no storage here has zones)", minimum: 2, maximum: 2, writes: true,
            work: IoControl.zone("close")),
        IoVerb(
            name: "zone_finish", alias: "zf", arguments: "offset len",
            summary: "finish zones (no storage here has zones)", minimum: 2, maximum: 2, writes: true,
            work: IoControl.zone("finish")),
        IoVerb(
            name: "zone_open", alias: "zo", arguments: "offset len",
            summary: "open zones (no storage here has zones)", minimum: 2, maximum: 2, writes: true,
            work: IoControl.zone("open")),
        IoVerb(
            name: "zone_report", alias: "zrp", arguments: "offset number",
            summary: "tell of zones (no storage here has zones)", minimum: 2, maximum: 2,
            work: IoControl.zone("report")),
        IoVerb(
            name: "zone_reset", alias: "zrs", arguments: "offset len",
            summary: "reset zones (no storage here has zones)", minimum: 2, maximum: 2, writes: true,
            work: IoControl.zone("reset")),
    ]
}
