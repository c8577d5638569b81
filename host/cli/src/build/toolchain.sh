#!/usr/bin/env bash
# Sets up a rustc that can build policies, for machines whose own toolchain lacks wasm32-unknown-unknown and cannot
# download it. Unpacks Debian's rustc-web, and builds its standard library for that target. Run by `hotpick toolchain`.
#
# Nothing is installed in the system: all files go into the folder $1 (some 550 MB).
#
# Needs: apt (with package lists), dpkg, cargo. Takes about a minute.
set -euo pipefail
target=wasm32-unknown-unknown
out=$(realpath -m "$1")

# The oldest rustc that builds the SDK and the standard policies.
oldest=1.95
is_new_enough() { [ "$(printf '%s\n' "$oldest" "$1" | sort -V | head -1)" = "$oldest" ]; }

has_std() {
    local libraries
    libraries=$("$1" --print target-libdir --target $target 2>/dev/null) || return 1
    compgen -G "$libraries/libstd-*.rlib" >/dev/null
}
if [ -x "$out/rustc" ] && has_std "$out/rustc" && is_new_enough "$("$out/rustc" --version | cut -d' ' -f2)"; then
    echo "$out/rustc already exists: nothing to do"
    exit 0
fi
for tool in apt-get dpkg cargo; do
    command -v $tool >/dev/null || {
        echo "this machine has no $tool: install Rust by rustup, and run rustup target add $target" >&2
        exit 1
    }
done

rm -rf "$out"
mkdir -p "$out/debs" "$out/sysroot" "$out/std/src"

echo "fetching Debian's rustc-web"
newest() { apt-cache madison rustc-web | awk 'NR == 1 { print $3 }'; }
version=$(newest)
# The local package lists may be outdated: those of a release have a rustc that is too old.
if ! is_new_enough "${version:-0}" && [ "$(id -u)" = 0 ]; then
    apt-get update -q >/dev/null
    version=$(newest)
fi
if ! is_new_enough "${version:-0}"; then
    echo "apt does not offer rustc-web $oldest or newer: run apt-get update, or use a newer release of Debian" >&2
    exit 1
fi
std=libstd-rust-web-$(echo "$version" | cut -d. -f1,2)
llvm=$(apt-cache show "$std" | sed -nE 's/^Depends:.*(libllvm[0-9]+).*/\1/p' | head -1)
(
    cd "$out/debs"
    apt-get download -q "rustc-web=$version" "rust-web-src=$version" "libstd-rust-web-dev=$version" \
        "$std=$version" "$llvm" >/dev/null
    for package in rustc-web libstd-rust-web "$llvm"; do
        for file in "$package"*.deb; do dpkg -x "$file" ../sysroot; done
    done
    # Extracts only the standard library from the sources.
    dpkg-deb --fsys-tarfile rust-web-src_*.deb |
        tar -x -C ../sysroot --wildcards './usr/src/rustc-*/library/*' './usr/lib/rustlib/src*'
)
rm -rf "$out/debs"
cat >"$out/rustc" <<SCRIPT
#!/bin/sh
usr=$out/sysroot/usr
LD_LIBRARY_PATH=\$(echo \$usr/lib/x86_64-linux-gnu:\$usr/lib/llvm-*/lib) exec \$usr/bin/rustc "\$@"
SCRIPT
chmod +x "$out/rustc"

echo "building its standard library for $target"
cat >"$out/std/Cargo.toml" <<'MANIFEST'
[package]
name = "std-for-policies"
version = "0.0.0"
edition = "2021"
[workspace]
[profile.release]
opt-level = 3
panic = "abort"
codegen-units = 1
MANIFEST
: >"$out/std/src/lib.rs"
sources=$(readlink -f "$out/sysroot/usr/lib/rustlib/src/rust")
flags="-Cembed-bitcode=yes --remap-path-prefix=$sources=/rustc"
flags="$flags --remap-path-prefix=$out/sysroot/usr/lib/rustlib/src/rust=/rustc"
# Each registry has its own folder.
for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
    flags="$flags --remap-path-prefix=$registry=/cargo"
done
(
    cd "$out/std"
    RUSTC=$out/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS=$flags CARGO_TARGET_DIR=target \
        cargo build -q --release -Z build-std=std,panic_abort --target $target
)
libraries=$("$out/rustc" --print sysroot)/lib/rustlib/$target/lib
mkdir -p "$libraries"
for file in "$out/std/target/$target/release/deps/"lib*.rlib; do
    case $file in
    */libstd_for_policies-*) ;;
    *) cp "$file" "$libraries/" ;;
    esac
done
rm -rf "$out/std"
"$out/rustc" --version
echo "$out/rustc is ready"
