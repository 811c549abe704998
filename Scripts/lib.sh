# Shared by the scripts; sourced, never run.

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)

# Debian packages that the build, the tests and the comparison with qemu-img need.
build_packages=(pkg-config zlib1g-dev libzstd-dev libdeflate-dev libssl-dev libbz2-dev
    liblzma-dev liburing-dev)
test_packages=(python3 qemu-utils cryptsetup-bin e2fsprogs p7zip-full libvmdk-utils groff-base libvhdi-utils
    xfsprogs strace)
bench_packages=(python3 qemu-utils e2fsprogs xfsprogs time)

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# Prints those of the named packages that are not installed.
missing_packages() {
    local installed name
    installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null)
    for name in "$@"; do
        grep -qx "installed $name" <<<"$installed" || printf '%s\n' "$name"
    done
}

# Runs apt-get as root, directly or through sudo.
apt_as_root() {
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 "$@")
    if [ "$(id -u)" = 0 ]; then
        "${apt[@]}"
    elif command -v sudo >/dev/null; then
        sudo "${apt[@]}"
    else
        return 1
    fi >/dev/null
}

# Installs those of the named packages that are missing. Other systems than Debian's family are left alone.
need_packages() {
    command -v dpkg-query >/dev/null || return 0
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    apt_as_root install --no-install-recommends "${missing[@]}" 2>/dev/null && return 0
    # The package lists may be missing or old: fetch them and try once more.
    apt_as_root update && apt_as_root install --no-install-recommends "${missing[@]}" && return 0
    say "cannot install packages (neither root nor sudo works here, or apt failed); as root, run:"
    say "    apt-get update && apt-get install ${missing[*]}"
    return 1
}

peers="$root/.build/peers"

# Installs the Python packages of Scripts/peers.txt, which pins them by hash, into .build/peers. Networks
# fail, so it tries three times.
need_python_peers() {
    local list="$root/Scripts/peers.txt" try
    cmp -s "$list" "$peers/installed.txt" && return 0
    python3 -m pip --version >/dev/null 2>&1 || need_packages python3-pip || return 1
    say "installing Python packages into $peers"
    mkdir -p "$root/.build"
    for try in 1 2 3; do
        rm -rf "$peers"
        python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
            --only-binary :all: --require-hashes --target "$peers" -r "$list" 2>"$root/.build/peers.log" &&
            cp "$list" "$peers/installed.txt" && return 0
        [ "$try" = 3 ] || sleep "${PEERS_PAUSE:-10}"
    done
    cat "$root/.build/peers.log" >&2
    rm -rf "$peers"
    say "cannot install the Python packages of Scripts/peers.txt"
    return 1
}

need_swift() {
    command -v swift >/dev/null || die "needs a Swift toolchain, 6.2 or later: https://www.swift.org/install"
}

scratch="$root/.build/shipped"
binary="$scratch/release/platter"
stamp="$scratch/built"

# Whether the release binary is newer than every source (folders tell of deleted files).
is_built() {
    [ -x "$binary" ] && [ -e "$stamp" ] &&
        [ -z "$(find "$root/Sources" "$root/Package.swift" -newer "$stamp" -print -quit)" ]
}

# Builds the statically linked, stripped release binary where it is not up to date.
build_release() {
    is_built && return 0
    need_swift
    need_packages "${build_packages[@]}" || exit 1
    mkdir -p "$scratch"
    exec 9>"$scratch/lock"
    flock 9
    is_built && { exec 9>&-; return 0; }
    say "building the release binary (minutes the first time) ..."
    touch "$stamp.new"
    swift build --package-path "$root" --scratch-path "$scratch" -c release --product platter \
        -Xswiftc -static-executable -Xlinker -s >"$scratch/log" 2>&1 9>&- </dev/null ||
        { cat "$scratch/log" >&2; die "the build failed"; }
    mv "$stamp.new" "$stamp"
    exec 9>&-
}
