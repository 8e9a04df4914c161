#!/bin/sh
# Checks that this machine has what a build needs, and says in one go what is missing and what to install.
#
#   sh tools/doctor.sh PYTHON [test]
#
# Plain POSIX shell, and little beyond its builtins, because it must work where nothing else does.

python=${1:-python3}
purpose=${2:-demo}
missing=0

complain() {
    missing=$((missing + 1))
    printf 'missing: %s\n' "$1" >&2
    shift
    for line in "$@"; do
        printf '         %s\n' "$line" >&2
    done
}

# 1.88.0 -> 1088, so that versions compare as numbers.
version_number() {
    major=${1%%.*}
    rest=${1#*.}
    minor=${rest%%.*}
    case "$major$minor" in
        '' | *[!0-9]*) echo 0 ;;
        *) echo $((major * 1000 + minor)) ;;
    esac
}

check_rust() {
    rust_needed=1.88
    rust_advice='install Rust from https://rustup.rs (Debian and Fedora alike), then open a new shell'
    if ! command -v cargo >/dev/null 2>&1; then
        complain "cargo, Rust's build tool, is not on the PATH" "$rust_advice"
    elif ! cargo --version >/dev/null 2>&1; then
        complain "cargo is on the PATH but does not run" "run 'cargo --version' to see why; 'rustup default stable' often mends it"
    fi
    if ! command -v rustc >/dev/null 2>&1; then
        complain "rustc, the Rust compiler, is not on the PATH" "$rust_advice"
        return
    fi
    if ! rust_answer=$(rustc --version 2>/dev/null); then
        complain "rustc is on the PATH but does not run" "run 'rustc --version' to see why; 'rustup default stable' often mends it"
        return
    fi
    rust_found=${rust_answer#rustc }
    rust_found=${rust_found%% *}
    if [ "$(version_number "$rust_found")" -lt "$(version_number $rust_needed)" ]; then
        complain "Rust is too old: found $rust_found, needed $rust_needed or newer" \
            "with rustup:     rustup update stable" \
            "without rustup:  $rust_advice"
    fi
}

check_rust_components() {
    command -v cargo >/dev/null 2>&1 || return
    for component in fmt clippy; do
        if ! cargo "$component" --version >/dev/null 2>&1; then
            package=$component
            [ "$component" = fmt ] && package=rustfmt
            complain "cargo $component, which the tests run, is not installed" \
                "with rustup:    rustup component add $package" \
                "Fedora:         sudo dnf install $package"
        fi
    done
}

links_a_program() {
    scratch=$(mktemp -d) || return 1
    printf 'int main(void) { return 0; }\n' | cc -x c - -o "$scratch/program" >/dev/null 2>&1
    linked=$?
    rm -rf "$scratch"
    return $linked
}

check_linker() {
    if ! command -v cc >/dev/null 2>&1; then
        complain "a C compiler (cc), with which Rust links programs, is not on the PATH" \
            "Debian, Ubuntu: sudo apt install build-essential" \
            "Fedora:         sudo dnf install gcc glibc-devel"
    elif ! links_a_program; then
        complain "the C compiler (cc) is there but cannot link a program: the C library's development files are not" \
            "Debian, Ubuntu: sudo apt install build-essential" \
            "Fedora:         sudo dnf install gcc glibc-devel"
    fi
}

check_python() {
    if ! command -v "$python" >/dev/null 2>&1; then
        complain "Python ('$python') is not on the PATH" \
            "Debian, Ubuntu: sudo apt install python3 python3-dev python3-venv" \
            "Fedora:         sudo dnf install python3 python3-devel" \
            "or name another: make demo PYTHON=/path/to/python3.12"
        return
    fi
    if ! python_found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
        complain "Python ('$python') is on the PATH but does not run" \
            "run '$python --version' to see why, or name another: make demo PYTHON=/path/to/python3.12"
        return
    fi
    if [ "$(version_number "$python_found")" -lt 3010 ]; then
        complain "Python ('$python') is too old: found $python_found, needed 3.10 or newer" \
            "install a newer one and name it: make demo PYTHON=python3.12" \
            "Debian 12, Ubuntu 22.04 and later have one: sudo apt install python3 python3-dev python3-venv" \
            "Fedora:         sudo dnf install python3.12 python3.12-devel"
        return
    fi
    if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        complain "Python's venv module ('$python', version $python_found) is not complete" \
            "Debian, Ubuntu: sudo apt install python3-venv (or python$python_found-venv)" \
            "Fedora:         sudo dnf install python3-pip"
    fi
    python_header=$("$python" -c 'import os, sysconfig; print(os.path.join(sysconfig.get_paths()["include"], "Python.h"))')
    if [ ! -f "$python_header" ]; then
        complain "Python's headers ('$python', version $python_found): no $python_header" \
            "Debian, Ubuntu: sudo apt install python3-dev (or python$python_found-dev)" \
            "Fedora:         sudo dnf install python3-devel (or python$python_found-devel)"
    fi
}

# Memory files, event and process descriptors are used throughout: on anything else the build would fail, and late.
if system=$(uname -s 2>/dev/null) && [ "$system" != Linux ]; then
    printf 'manyhands runs on Linux only for now, and this is %s. A Linux container or virtual machine will do.\n' \
        "$system" >&2
    exit 1
fi

check_rust
[ "$purpose" = test ] && check_rust_components
check_linker
check_python

if [ "$missing" -gt 0 ]; then
    printf '\nmanyhands cannot be built yet. Install what is named above (missing: %s) and run make again.\n' "$missing" >&2
    exit 1
fi
