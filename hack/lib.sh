# shellcheck shell=bash
# What the scripts in this folder share. Sourced, never run.

# Built from source and asked of dl.k8s.io; any patch release of one minor version does for the tests.
# shellcheck disable=SC2034
KUBERNETES_VERSION=1.34.4

# shellcheck disable=SC2034
CARGO_DENY_VERSION=0.20.2

say() { printf '%s: %s\n' "${0##*/}" "$*"; }

die() {
  say "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Debian keeps daemons and mount tools where a normal user's PATH does not look.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# Outside the repository, so that a clean clone finds what an earlier one brought.
cache_folder() {
  if [ -n "${DROP_CACHE_DIR:-}" ]; then
    printf '%s\n' "$DROP_CACHE_DIR"
  else
    printf '%s/drop\n' "${XDG_CACHE_HOME:-$HOME/.cache}"
  fi
}

# Prints where a Kubernetes program is, as the testbed looks for it: $KUBEBUILDER_ASSETS, the newest in the cache, the PATH.
kubernetes_program() {
  local newest
  if [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ -x "$KUBEBUILDER_ASSETS/$1" ]; then
    printf '%s\n' "$KUBEBUILDER_ASSETS/$1"
    return
  fi
  newest=$(find "$(cache_folder)" -mindepth 2 -maxdepth 2 -path "*/kubernetes-*/$1" 2>/dev/null | sort -V | tail -n 1)
  if [ -n "$newest" ]; then
    printf '%s\n' "$newest"
    return
  fi
  command -v "$1"
}

# Prints where cargo-deny is: in the cache, else on the PATH.
cargo_deny_program() {
  local cached
  cached=$(cache_folder)/cargo-deny-$CARGO_DENY_VERSION/cargo-deny
  if [ -x "$cached" ]; then
    printf '%s\n' "$cached"
    return
  fi
  command -v cargo-deny
}

# Says why to the user whom sudo is about to ask for a password.
announce_root() {
  have sudo || die "root is needed to $1; run this as root, or install sudo"
  sudo -n true 2>/dev/null || say "sudo may ask for your password: root is needed to $1"
}

# Runs a command as root.
as_root() {
  local why=$1
  shift
  if [ "$(id -u)" = 0 ]; then
    "$@"
    return
  fi
  announce_root "$why"
  sudo "$@"
}
