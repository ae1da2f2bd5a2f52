#!/bin/bash
# Fetches the stock clients that bundles are checked with, into build/clients:
#   js/      @sigstore/verify from npm, exactly as package-lock.json pins it
#   cosign/  cosign from Debian's sid (no other release has it), the .deb pinned by SHA-256 in cosign.sha256
#   notes/   notes.go, built with Debian's golang-golang-x-mod-dev
# sigstore-python is in the project's own environment already. Needs node, npm, apt-get and dpkg; asks the registries
# that this machine is set up with. A client that cannot be had is named, and the others are fetched all the same.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../../.." && pwd)/build/clients
mkdir -p "$out"
missing=0

fetch_js() {
    mkdir -p "$out/js"
    cp "$here/package.json" "$here/package-lock.json" "$out/js/"
    (cd "$out/js" && npm ci --ignore-scripts --no-audit --no-fund --silent)
}

# The machine's own sources for its own release, with sid in place of the release: same mirror, same keys.
sid_sources() {
    local release
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mkdir -p "$1/parts" "$1/lists/partial" "$1/archives/partial"
    : > "$1/sources.list"
    sed -nE "s/^(deb .*) $release main.*/\1 sid main/p" /etc/apt/sources.list 2> /dev/null > "$1/sources.list" || true
    local file
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] || continue
        awk -v release="$release" 'BEGIN { RS = ""; ORS = "\n\n" }
            $0 ~ ("(^|\n)Suites: *" release "( |\n|$)") && !/\/security/ {
                gsub(/(^|\n)Suites:[^\n]*/, "\nSuites: sid"); gsub(/\nComponents:[^\n]*/, "\nComponents: main"); print
            }' "$file" > "$1/parts/$(basename "$file")"
        [ -s "$1/parts/$(basename "$file")" ] || rm "$1/parts/$(basename "$file")"
    done
}

fetch_cosign() {
    local want file apt version
    read -r want file < "$here/cosign.sha256"
    mkdir -p "$out/cosign"
    if ! echo "$want  $out/cosign/$file" | sha256sum --check --status 2> /dev/null; then
        apt="$out/apt"
        version=$(echo "$file" | sed -E 's/^cosign_(.*)_[^_]*$/\1/')
        sid_sources "$apt"
        local options=(
            -o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/parts"
            -o "Dir::State::lists=$apt/lists" -o "Dir::Cache::archives=$apt/archives"
            -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" -o "APT::Sandbox::User=root" -q=2
        )
        apt-get "${options[@]}" update
        (cd "$out/cosign" && apt-get "${options[@]}" download "cosign=$version")
        rm -rf "$apt/lists"
        echo "$want  $out/cosign/$file" | sha256sum --check --status
    fi
    dpkg -x "$out/cosign/$file" "$out/cosign"
    "$out/cosign/usr/bin/cosign" version > /dev/null
}

# Go's own packages for transparency logs, as Debian has them: apt-get install golang-go golang-golang-x-mod-dev
fetch_notes() {
    mkdir -p "$out/notes"
    GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE="$out/notes/cache" go build -o "$out/notes/notes" "$here/notes.go"
}

for client in js cosign notes; do
    # In a shell of its own: `set -e` does not hold inside a condition.
    if (export -f "fetch_$client" sid_sources; export here out; bash -euo pipefail -c "fetch_$client"); then
        echo "$client: ready in $out/$client"
    else
        echo "$client: could not be fetched" >&2
        missing=1
    fi
done
exit "$missing"
